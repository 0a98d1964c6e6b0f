-- Takes or prolongs the lease of a lane's keeper, and says how the lane stands. Each replica asks,
-- so that the set of all lanes knows every lane that was ever looked after.
-- KEYS: lane, set of all lanes
-- ARGV: owner, lease ms, why the keeper holds ('' when it does not), the lane's name in that set
-- Returns {KEPT | OTHER, fence, now, next nonce ('' when none was ever taken), hold, keeper,
-- mark of a key that is handed over ('' for none)}.
-- Invariant: one keeper at a time; the fence grows with each change of hands.
local lane, owner, lease, hold = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = clock()
redis.call('SADD', KEYS[2], ARGV[4])
local held = redis.call('HMGET', lane, 'keeper', 'keeper_fence', 'keeper_until', 'next', 'hold',
  'retired')
local keeper, fence, next, retired = held[1], held[2] or '0', held[4] or '', held[6] or ''
if keeper ~= owner and keeper and keeper ~= '' and tonumber(held[3]) > now then
  return {'OTHER', fence, text(now), next, held[5] or '', keeper, retired}
end
if keeper ~= owner then
  fence = text(redis.call('HINCRBY', lane, 'keeper_fence', 1))
end
redis.call('HSET', lane, 'keeper', owner, 'keeper_until', text(now + lease))
if hold == '' then redis.call('HDEL', lane, 'hold') else redis.call('HSET', lane, 'hold', hold) end
return {'KEPT', fence, text(now), next, hold, owner, retired}
