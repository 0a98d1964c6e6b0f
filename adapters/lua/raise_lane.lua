-- Moves a lane past nonces that somebody else has used, or is using.
-- KEYS: lane
-- ARGV: the lowest nonce that may be given from now on
-- Returns the next nonce.
-- Invariant: lane.next only grows.
local next = tonumber(redis.call('HGET', KEYS[1], 'next') or '0')
local least = tonumber(ARGV[1])
if least > next or redis.call('HEXISTS', KEYS[1], 'next') == 0 then
  next = math.max(next, least)
  redis.call('HSET', KEYS[1], 'next', text(next))
end
return text(next)
