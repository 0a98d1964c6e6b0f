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
-- Returns OK, DUPLICATE, GONE, FENCED or CONFLICT.
-- Invariants: a saga is in `due` if and only if it is active, and in exactly one state index;
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
  redis.call('SET', event, ARGV[10], 'NX')
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
if ARGV[6] == 'ACKED' and tonumber(ARGV[16]) > 0 then
  local kept = tonumber(ARGV[16])
  redis.call('PEXPIRE', event, ARGV[16])
  -- A few at a time: more than one is added for each that goes only while the span is shortened.
  local old = redis.call('ZRANGEBYSCORE', events, '-inf', text((now - kept) * 1000), 'LIMIT', 0, 16)
  for _, gone in ipairs(old) do
    redis.call('ZREM', events, gone)
    redis.call('DEL', ARGV[17] .. gone)
  end
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
