-- Leases sagas whose lease ran out or whose retry time has come.
-- KEYS: due
-- ARGV: owner, lease ms, how many at most, key prefix of sagas, suffix of histories,
--       history entry, how the leases of the asking worker begin
-- Returns a list of hashes.
-- Invariants: a saga leaves `due` here only when its hash is gone; `crashes` counts the leases of
--       other workers that ran out since the saga came into its state: who asks has not died.
local due, owner, lease, prefix = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[4]
local now = clock()
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[3])) do
  local saga = prefix .. id
  local held = redis.call('HMGET', saga, 'state', 'owner')
  if not held[1] then
    redis.call('ZREM', due, id)
  else
    redis.call('HSET', saga, 'owner', owner)
    redis.call('HINCRBY', saga, 'fence', 1)
    if held[2] ~= '' then
      redis.call('HINCRBY', saga, 'takeovers', 1)
      if held[2]:sub(1, #ARGV[7]) ~= ARGV[7] then redis.call('HINCRBY', saga, 'crashes', 1) end
      record(saga .. ARGV[5], now, ARGV[6] .. ',"state":"' .. held[1] .. '","lost":'
        .. cjson.encode(held[2]) .. '}')
    end
    redis.call('ZADD', due, now + lease, id)
    taken[#taken + 1] = redis.call('HGETALL', saga)
  end
end
return taken
