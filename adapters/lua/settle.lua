-- Writes a mark behind all that was written before, and says whether what is about to be acted on
-- is still there. The caller waits, on the same connection, until the mark is safe (WAIT, WAITAOF):
-- the stream of writes is ordered, so that all before it are safe too.
-- KEYS: mark, then the hash of each expectation
-- ARGV: for each expectation: field, value
-- Returns a list with '1' or '0' for each expectation: whether it holds.
-- Invariant: a server that has lost a write (a failover) does not pass for one that keeps it. Sent
-- again, it counts once more, and nothing reads the count.
local held = {}
for i = 2, #KEYS do
  local field, value = ARGV[2 * i - 3], ARGV[2 * i - 2]
  held[i - 1] = redis.call('HGET', KEYS[i], field) == value and '1' or '0'
end
redis.call('INCR', KEYS[1])
return held
