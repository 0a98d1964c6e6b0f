-- Marks a lane whose key is handed over to another: a lane with a mark gives no new nonces.
-- KEYS: lane, lane of the address that it is handed over to (for lift: the lane again)
-- ARGV: what is asked, the address that it is handed over to, the lane's next nonce as it was read
--       ('' when none was ever taken; for finish alone)
--   drain: mark `draining:<address>`
--   finish: make it `retired:<address>`; the other lane loses its own mark, if it has one
--   abandon: mark `retired:<address>` whatever stands and whatever is out: the key is lost
--   lift: take the mark away; with an address only `draining:<address>`, with '' any
-- Returns {OK | OTHER: another mark stands | STALE: a nonce was taken meanwhile, mark that stands
-- ('' for none), next nonce}. A repeated call whose reply was lost answers OK.
-- Invariant: no mark but by `abandon` becomes `retired` unless it was `draining` to the same address
-- and the lane's next nonce is the one that everything was proven for.
local lane, heir = KEYS[1], KEYS[2]
local what, to, seen = ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('HMGET', lane, 'retired', 'next')
local mark, next = held[1] or '', held[2] or ''
local draining, retired = 'draining:' .. to, 'retired:' .. to

if what == 'lift' then
  if mark ~= '' and to ~= '' and mark ~= draining then return {'OTHER', mark, next} end
  redis.call('HDEL', lane, 'retired')
  return {'OK', '', next}
end

if mark == retired then return {'OK', mark, next} end
local wanted = retired
if what == 'drain' then
  if string.sub(mark, 1, 8) == 'retired:' then return {'OTHER', mark, next} end
  wanted = draining
elseif what == 'finish' then
  if mark ~= draining then return {'OTHER', mark, next} end
  if next ~= seen then return {'STALE', mark, next} end
  redis.call('HDEL', heir, 'retired')
end
redis.call('HSET', lane, 'retired', wanted)
return {'OK', wanted, next}
