-- Takes nonces for the steps of a saga and stores the transactions signed with them: one write, so
-- that no nonce is ever taken without signed bytes, and no step ever has two. A registration may
-- come right behind its deployment, with the next nonce.
-- KEYS: saga, history, due, lane, model claim, throttle, its queue, then the record of each nonce
-- ARGV: saga id, owner, fence, version, lease ms, first nonce signed with, nonces spent on the
--       chain, nonces the node knows of ('' when not asked), most in flight (0: no limit), '1' to
--       require the model claim, gas that the model's cost is judged by, nonces that are spent for
--       sure (the lane goes on behind them), ms between two deployments of all replicas (0: no
--       throttle), then for each nonce: field of the step, intent, attempt, history entry
-- Returns {OK | DUPLICATE}, {HAS, intent}, {NONCE, the next one}, {UNKNOWN}: ask the node and call
-- again, {FULL}, {THROTTLED, ms until the next one}, {RETIRED, mark}, {CLAIMED, holder}, or
-- {GONE | FENCED | CONFLICT}.
-- Invariants: lane.next only grows; each nonce below it belongs to one step, or is a hole that the
-- lane's keeper fills. The throttle is a token bucket that holds one token: it says when the next
-- one is there, and a deployment takes it in the write that gives it its nonce.
local saga, history, due, lane, claim, throttle, queue = unpack(KEYS)
local id, owner, fence, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local nonce, spent, known, limit = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local floor, pause, count = tonumber(ARGV[12]), tonumber(ARGV[13]), #KEYS - 7
local refused = refusal(saga, owner, fence, version)
if refused then return {refused} end
local has = redis.call('HGET', saga, ARGV[14])
if has then return {'HAS', has} end

if ARGV[10] == '1' then
  local holder = redis.call('GET', claim)
  if holder and holder ~= id then return {'CLAIMED', holder} end
end

local retired = redis.call('HGET', lane, 'retired')
if retired then return {'RETIRED', retired} end
local next = redis.call('HGET', lane, 'next')
if not next then
  if known == '' then return {'UNKNOWN'} end
  next = known
end
next = math.max(tonumber(next), floor)
if limit > 0 and next + count - spent > limit then return {'FULL'} end
local now = clock()
if pause > 0 then
  local from = tonumber(redis.call('GET', throttle) or '0')
  if now < from then return {'THROTTLED', text(from - now)} end
end
if nonce ~= next then
  redis.call('HSET', lane, 'next', text(next))
  return {'NONCE', text(next)}
end

if ARGV[10] == '1' then redis.call('SET', claim, id) end
if pause > 0 then
  redis.call('SET', throttle, text(now + pause), 'PX', text(pause))
  redis.call('ZREM', queue, id)
end
accept(saga, owner, version, now)
redis.call('HSET', lane, 'next', text(nonce + count))
redis.call('ZADD', due, now + tonumber(ARGV[5]), id)
for i = 0, count - 1 do
  local field, intent, attempt, entry = unpack(ARGV, 14 + 4 * i, 17 + 4 * i)
  redis.call('HSET', saga, field, intent)
  redis.call('DEL', KEYS[8 + i])
  redis.call('HSET', KEYS[8 + i], 'saga', id, 'step', field, 'cost_gas', ARGV[11],
    'n', '1', 'at_ms', text(now), 'a0', attempt)
  record(history, now, entry)
end
return {'OK'}
