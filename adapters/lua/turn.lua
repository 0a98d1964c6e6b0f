-- Says when a saga may deploy under the throttle, and keeps its place: asked again it is the same.
-- KEYS: throttle, queue of turns
-- ARGV: saga id, ms between two deployments, ms after which a turn that nobody came for is forgotten
-- Returns the ms until its turn; 0 when it may go now.
-- Invariant: turns are one pause apart at least. The token itself is taken by intend.lua alone.
local throttle, queue, id = KEYS[1], KEYS[2], ARGV[1]
local pause, now = tonumber(ARGV[2]), clock()
local from = tonumber(redis.call('GET', throttle) or '0')
redis.call('ZREMRANGEBYSCORE', queue, '-inf', now - tonumber(ARGV[3]))
local turn = tonumber(redis.call('ZSCORE', queue, id) or '0')
if turn == 0 then
  turn = math.max(now, from)
  local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]
  if first and tonumber(first) < turn + pause then
    turn = math.max(turn, tonumber(redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2]) + pause)
  end
  redis.call('ZADD', queue, turn, id)
end
return text(math.max(turn, from, now) - now)
