-- Makes a saga the model's own, or tells it which saga is.
-- KEYS: saga, history, due, model claim
-- ARGV: saga id, owner, fence, version, lease ms, key prefix of sagas, content fingerprint,
--       model id, history entry
-- Returns {OK | DUPLICATE, holder's id, '1' when its content is the same} or {GONE | FENCED | CONFLICT}.
-- Invariant: a claim passes on only from a saga that is gone, ended without any intent, or was discarded:
-- what that has sent, or sends once it is resumed by hand, is fenced by the chain alone.
local saga, history, due, claim = unpack(KEYS)
local id, owner, fence, version, content = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[7]
local refused = refusal(saga, owner, fence, version)
if refused == 'DUPLICATE' then
  local known = redis.call('HMGET', saga, 'claim', 'claim_same')
  return {refused, known[1], known[2]}
end
if refused then return {refused} end

local holder = redis.call('GET', claim)
local same = '1'
if holder and holder ~= id then
  local other = redis.call('HMGET', ARGV[6] .. holder, 'state', 'content', 'deploy', 'deployment',
    'discarded')
  local ended = other[1] == 'DEAD_LETTERED' or other[1] == 'SKIPPED'
  local given_up = other[1] == 'DEAD_LETTERED' and other[5]
  if not other[1] or given_up or (ended and not other[3] and not other[4]) then
    holder = nil
  elseif other[2] ~= content then
    same = ''
  end
end
if not holder or holder == id then
  holder = id
  redis.call('SET', claim, id)
end

local now = clock()
accept(saga, owner, version, now)
redis.call('HSET', saga, 'claim', holder, 'claim_same', same, 'content', content,
  'model_id', ARGV[8])
redis.call('ZADD', due, now + tonumber(ARGV[5]), id)
if holder ~= id then record(history, now, ARGV[9]) end
return {'OK', holder, same}
