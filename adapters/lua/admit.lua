-- Turns one entry of the processing list into a saga, or finds that it belongs to one.
-- KEYS: saga, history, due, index RECEIVED, processing list, index DEAD_LETTERED,
--       sagas of the model, model claim, dead-letter list
-- ARGV: saga id, message bytes, owner, lease ms, index key prefix, history entry,
--       reopening entry, '1' when the message names a model, the letter of the
--       dead-lettered saga, the version that it was made of ('' for unknown), then pairs of further
--       fields
-- Returns {ADMITTED | REOPENED, hash…}, {STOLEN | HELD | DUPLICATE, state}, or {DEAD, hash…}: nothing was
-- done; call again with the letter of this hash.
-- Invariant: the message leaves the processing list only when it is a second copy, or when its
-- saga is terminal; a saga that is reopened leaves no letter behind.
local saga, history, due, received, processing, dead, siblings, claim, letters = unpack(KEYS)
local id, message, owner, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now = clock()
local held = redis.call('HMGET', saga, 'state', 'owner', 'message', 'failed_in', 'fence', 'version',
  'discarded')
local state = held[1]

-- Our own write, sent again after its reply was lost: only a new saga has the fence 1.
if state and held[2] == owner then
  return {held[5] == '1' and 'ADMITTED' or 'REOPENED', redis.call('HGETALL', saga)}
end

if not state then
  if not redis.call('LPOS', processing, message) then return {'STOLEN', ''} end
  redis.call('HSET', saga, 'schema', '1', 'id', id, 'state', 'RECEIVED', 'version', '1',
    'owner', owner, 'fence', '1', 'message', message,
    'created_ms', text(now), 'updated_ms', text(now))
  for i = 11, #ARGV, 2 do redis.call('HSET', saga, ARGV[i], ARGV[i + 1]) end
  redis.call('ZADD', received, now, id)
  if ARGV[8] == '1' then
    redis.call('ZADD', siblings, now, id)
    redis.call('ZREMRANGEBYRANK', siblings, 0, -101)
  end
  redis.call('ZADD', due, now + lease, id)
  record(history, now, ARGV[6])
  return {'ADMITTED', redis.call('HGETALL', saga)}
end

-- What an operator discarded comes back by its id or by another message, not by a second copy.
local discarded = state == 'DEAD_LETTERED' and held[7] and held[3] == message
if state == 'ACKED' or state == 'SKIPPED' or discarded then
  redis.call('LREM', processing, 1, message)
  return {'DUPLICATE', state}
end

if state == 'DEAD_LETTERED' then
  if not redis.call('LPOS', processing, message) then return {'STOLEN', state} end
  if ARGV[10] ~= (held[6] or '') then return {'DEAD', redis.call('HGETALL', saga)} end
  local to = held[4]
  -- The model may have passed to another saga before this one had sent anything: ask anew.
  local holder = redis.call('GET', claim)
  local sent = redis.call('HEXISTS', saga, 'deploy') + redis.call('HEXISTS', saga, 'deployment')
  if holder and holder ~= id and sent == 0 then to = 'RECEIVED' end
  redis.call('HSET', saga, 'state', to, 'owner', owner, 'fence', text(held[5] + 1),
    'version', text(held[6] + 1), 'updated_ms', text(now), 'attempts', '0', 'takeovers', '0',
    'crashes', '0', 'message', message)
  redis.call('HDEL', saga, 'error', 'error_class', 'failed_in', 'failed_at', 'conflicts_with',
    'discarded', 'claim')
  redis.call('ZREM', dead, id)
  if ARGV[9] ~= '' then redis.call('LREM', letters, -1, ARGV[9]) end
  redis.call('ZADD', ARGV[5] .. to, now, id)
  redis.call('ZADD', due, now + lease, id)
  record(history, now, ARGV[7] .. ',"state":"' .. to .. '"}')
  return {'REOPENED', redis.call('HGETALL', saga)}
end

-- An active saga keeps one copy of its message in the list; any further one goes.
local needed = 1
if held[3] == message then needed = 2 end
if #redis.call('LPOS', processing, message, 'COUNT', needed) < needed then return {'HELD', state} end
redis.call('LREM', processing, 1, message)
return {'DUPLICATE', state}
