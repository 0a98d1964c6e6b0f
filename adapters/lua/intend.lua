-- Takes a nonce for a step and stores the transaction signed with it: one write, so that no nonce
-- is ever taken without signed bytes, and no step ever has two.
-- KEYS: saga, history, due, lane, outstanding nonces of the lane, model claim
-- ARGV: saga id, owner, fence, version, lease ms, field of the step, intent, nonce signed with,
--       nonces spent on the chain, nonces the node knows of ('' when not asked), most in flight
--       (0: no limit), history entry, '1' to require the model claim
-- Returns {OK | DUPLICATE}, {HAS, intent}, {NONCE, the next one}, {UNKNOWN}: ask the node and call
-- again, {FULL}, {CLAIMED, holder}, or {GONE | FENCED | CONFLICT}.
-- Invariant: lane.next only grows; each nonce in `outstanding` belongs to one saga's step.
local saga, history, due, lane, outstanding, claim = unpack(KEYS)
local id, owner, fence, version, field = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]
local nonce, spent, known, limit = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11])
local refused = refusal(saga, owner, fence, version)
if refused then return {refused} end
local has = redis.call('HGET', saga, field)
if has then return {'HAS', has} end

if ARGV[13] == '1' then
  local holder = redis.call('GET', claim)
  if holder and holder ~= id then return {'CLAIMED', holder} end
end

local next = redis.call('HGET', lane, 'next')
if not next then
  if known == '' then return {'UNKNOWN'} end
  next = known
end
next = math.max(tonumber(next), spent)
redis.call('ZREMRANGEBYSCORE', outstanding, '-inf', '(' .. text(spent))
if limit > 0 and redis.call('ZCARD', outstanding) >= limit then return {'FULL'} end
if nonce ~= next then
  redis.call('HSET', lane, 'next', text(next))
  return {'NONCE', text(next)}
end

local now = clock()
if ARGV[13] == '1' then redis.call('SET', claim, id) end
accept(saga, owner, version, now)
redis.call('HSET', lane, 'next', text(nonce + 1))
redis.call('ZADD', outstanding, nonce, id .. ':' .. field)
redis.call('HSET', saga, field, ARGV[7])
redis.call('ZADD', due, now + tonumber(ARGV[5]), id)
record(history, now, ARGV[12])
return {'OK'}
