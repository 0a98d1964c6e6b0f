-- The one door for a saga's writes: a move along an edge, or a write within a state.
-- KEYS: saga, history, due, index of the state left, index of the state entered,
--       processing list, outbound list, dead-letter list, list of failure events, totals, the saga's
--       event, all events by the time of their publication, then records of nonces: those that are
--       done with, and those that are out still but the saga's no longer
-- ARGV: saga id, owner, fence, version, state left, state entered, due mode, milliseconds,
--       history entry ('' for none), event ('' for none), acknowledge ('1' or ''),
--       dead letter ('' for none), its failure event ('' for none),
--       how many of the records are done with, how long the others are kept (ms),
--       how long an event is kept once its saga is acknowledged (ms, 0 for ever), key prefix of events,
--       number of totals raised, pairs of their names and by how much,
--       number of fields removed, their names, then pairs of fields set
--   due mode: lease (milliseconds from now), timer (the same, and the lease is given up),
--             end (leaves `due`; milliseconds is how long the hash is kept, 0 for ever)
-- Returns OK, DUPLICATE, GONE, FENCED or CONFLICT; or the error BADTYPE, with the role of a key that
--       holds another type than it should.
-- Invariants: all is written or nothing: what would fail halfway is refused before the first write,
--       and memory that is full refuses the first write itself, never a later one; a saga is in `due` if and only if it is active, and in exactly one state index;
--       what is counted is counted in the write that does it, once; an event is kept by the write that
--       publishes it, and no two have the same time (microseconds, later than any before).
local saga, history, due, from, to, processing, outbound = unpack(KEYS, 1, 7)
local dead, failures, totals, event, events = unpack(KEYS, 8, 12)
local id, owner, fence, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local mode, span = ARGV[7], tonumber(ARGV[8])
local refused = refusal(saga, owner, fence, version)
if refused then return refused end
if redis.call('HGET', saga, 'state') ~= ARGV[5] then return 'CONFLICT' end

local now = clock()
local broken
local function must_be(kind, key, role)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then
    broken = broken or redis.error_reply('BADTYPE ' .. role .. ' is no ' .. kind .. ': a ' .. found)
  end
end
must_be('zset', due, 'set of active sagas')
must_be('zset', from, 'index of the state left')
must_be('zset', to, 'index of the state entered')
if ARGV[9] ~= '' then must_be('list', history, 'history') end
if ARGV[10] ~= '' then
  must_be('list', outbound, 'outbound list')
  must_be('string', event, 'event of the saga')
end
if ARGV[10] ~= '' or ARGV[6] == 'ACKED' then must_be('zset', events, 'set of events') end
if ARGV[11] == '1' then must_be('list', processing, 'processing list') end
if ARGV[12] ~= '' then must_be('list', dead, 'dead-letter list') end
if ARGV[13] ~= '' then must_be('list', failures, 'list of failure events') end
for i = 13 + tonumber(ARGV[14]), #KEYS do must_be('hash', KEYS[i], 'record of a nonce') end
if broken then return broken end

accept(saga, owner, version, now)
redis.call('HSET', saga, 'state', ARGV[6])
local last = 18 + 2 * tonumber(ARGV[18])
-- A counter that somebody has broken must not keep a saga from moving: pcall.
for i = 19, last, 2 do redis.pcall('HINCRBY', totals, ARGV[i], ARGV[i + 1]) end
local removed = last + 1 + tonumber(ARGV[last + 1])
for i = last + 2, removed do redis.call('HDEL', saga, ARGV[i]) end
for i = removed + 1, #ARGV, 2 do redis.call('HSET', saga, ARGV[i], ARGV[i + 1]) end

local done = 12 + tonumber(ARGV[14])
for i = 13, done do redis.call('DEL', KEYS[i]) end
for i = done + 1, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('HSET', KEYS[i], 'saga', '')
    redis.call('PEXPIRE', KEYS[i], ARGV[15])
  end
end

if ARGV[10] ~= '' then
  redis.call('LPUSH', outbound, ARGV[10])
  -- One of the id before may have an event still: its time begins anew when this one has ended.
  if not redis.call('SET', event, ARGV[10], 'NX') then redis.call('PERSIST', event) end
  local t = redis.call('TIME')
  local newest = redis.call('ZREVRANGE', events, 0, 0, 'WITHSCORES')[2]
  local at = math.max(t[1] * 1000000 + t[2], tonumber(newest or '0') + 1)
  redis.call('ZADD', events, 'NX', text(at), id)
end
if ARGV[12] ~= '' then redis.call('LPUSH', dead, ARGV[12]) end
if ARGV[13] ~= '' then redis.call('LPUSH', failures, ARGV[13]) end
if ARGV[11] == '1' then
  redis.call('LREM', processing, -1, redis.call('HGET', saga, 'message'))
end

if ARGV[5] ~= ARGV[6] then
  redis.call('HDEL', saga, 'crashes')
  redis.call('ZREM', from, id)
  redis.call('ZADD', to, now, id)
end
if ARGV[9] ~= '' then record(history, now, ARGV[9]) end
local keep_ms = tonumber(ARGV[16])

-- Whether the span of an event that was published long ago is over; it counts from its saga's end.
local function over(gone)
  local left = redis.call('PTTL', ARGV[17] .. gone)
  if left ~= -1 then return left == -2 end
  -- Kept for ever so far: its saga has not ended, or did while events had no span.
  local ended = redis.call('ZSCORE', to, gone)
  if not ended then
    if redis.call('EXISTS', string.sub(saga, 1, -1 - #id) .. gone) == 1 then return false end
    ended = now -- and was forgotten: nobody knows when
  end
  local rest = tonumber(ended) + keep_ms - now
  if rest > 0 then redis.call('PEXPIRE', ARGV[17] .. gone, text(rest)) end
  return rest <= 0
end

-- A few at a time: more than one is added for each that goes only while the span is shortened.
local function prune(first)
  local count = 0
  local last_us = text((now - keep_ms) * 1000)
  local old = redis.call('ZRANGEBYSCORE', events, '-inf', last_us, 'LIMIT', first, 16)
  for _, gone in ipairs(old) do
    if over(gone) then
      redis.call('ZREM', events, gone)
      redis.call('DEL', ARGV[17] .. gone)
      count = count + 1
    end
  end
  return count
end

if ARGV[6] == 'ACKED' and keep_ms > 0 then
  redis.call('PEXPIRE', event, ARGV[16])
  -- The oldest first; somewhere else when they are all to stay, so that they hide no others.
  if prune(0) == 0 then prune(redis.call('TIME')[2] % math.max(1, redis.call('ZCARD', events))) end
end
if mode == 'end' then
  redis.call('ZREM', due, id)
  redis.call('HSET', saga, 'owner', '')
  if span > 0 then
    redis.call('PEXPIRE', saga, span)
    redis.call('PEXPIRE', history, span)
    redis.call('ZREMRANGEBYSCORE', to, '-inf', now - span)
  end
else
  if mode == 'timer' then redis.call('HSET', saga, 'owner', '') end
  redis.call('ZADD', due, now + span, id)
end
return 'OK'
