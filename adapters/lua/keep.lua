-- Takes or prolongs the lease of a lane's keeper, and says how the lane stands.
-- KEYS: lane
-- ARGV: owner, lease ms, why the keeper holds ('' when it does not)
-- Returns {KEPT | OTHER, fence, now, next nonce ('' when none was ever taken), hold, keeper}.
-- Invariant: one keeper at a time; the fence grows with each change of hands.
local lane, owner, lease, hold = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = clock()
local held = redis.call('HMGET', lane, 'keeper', 'keeper_fence', 'keeper_until', 'next', 'hold')
local keeper, fence, next = held[1], held[2] or '0', held[4] or ''
if keeper ~= owner and keeper and keeper ~= '' and tonumber(held[3]) > now then
  return {'OTHER', fence, text(now), next, held[5] or '', keeper}
end
if keeper ~= owner then
  fence = text(redis.call('HINCRBY', lane, 'keeper_fence', 1))
end
redis.call('HSET', lane, 'keeper', owner, 'keeper_until', text(now + lease))
if hold == '' then redis.call('HDEL', lane, 'hold') else redis.call('HSET', lane, 'hold', hold) end
return {'KEPT', fence, text(now), next, hold, owner}
