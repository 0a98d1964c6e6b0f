-- Marks a lane whose key is handed over to another: a lane with a mark gives no new nonces.
-- KEYS: lane, lane of the address that it is handed over to (for lift: the lane again)
-- ARGV: what is asked, the address that it is handed over to, the lane's next nonce as it was read
--       ('' when none was ever taken; for finish alone), who asks ('' for nobody by name)
--   drain: mark `draining:<address>`, for the asker: of several that drain, the last one has it
--   finish: make the asker's own mark `retired:<address>`; the other lane loses its mark, if it has
--     one
--   abandon: mark `retired:<address>` whatever stands and whatever is out: the key is lost
--   lift: take the mark away; with an address only the asker's own `draining:<address>`, with '' any
-- Returns {OK | OTHER: another mark stands | STALE: a nonce was taken meanwhile, mark that stands
-- ('' for none), next nonce}. A repeated call whose reply was lost answers OK.
-- Invariant: no mark but by `abandon` becomes `retired` unless it was `draining` to the same address,
-- for the same asker, and the lane's next nonce is the one that everything was proven for.
local lane, heir = KEYS[1], KEYS[2]
local what, to, seen, asker = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local held = redis.call('HMGET', lane, 'retired', 'next', 'retired_by')
local mark, next, by = held[1] or '', held[2] or '', held[3] or ''
local draining, retired = 'draining:' .. to, 'retired:' .. to
local own = mark == draining and by == asker

if what == 'lift' then
  if mark ~= '' and to ~= '' and not own then return {'OTHER', mark, next} end
  redis.call('HDEL', lane, 'retired', 'retired_by')
  return {'OK', '', next}
end

if mark == retired then return {'OK', mark, next} end
local wanted = retired
if what == 'drain' then
  if string.sub(mark, 1, 8) == 'retired:' then return {'OTHER', mark, next} end
  wanted, by = draining, asker
elseif what == 'finish' then
  if not own then return {'OTHER', mark, next} end
  if next ~= seen then return {'STALE', mark, next} end
  redis.call('HDEL', heir, 'retired', 'retired_by')
  by = ''
else
  by = 'abandon'
end
redis.call('HSET', lane, 'retired', wanted)
if by == '' then redis.call('HDEL', lane, 'retired_by') else redis.call('HSET', lane, 'retired_by', by) end
return {'OK', wanted, next}
