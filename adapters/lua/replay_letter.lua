-- Puts the message of a dead letter that has no saga back on the inbound list.
-- KEYS: dead-letter list, inbound list, audit list
-- ARGV: entry, message, audit entry, most audit entries
-- Returns OK, or MISSING (no such entry: replayed or discarded already).
-- Sent again after its reply was lost it finds no entry, or the next one of the same bytes and moves
-- that: each entry is moved once.
-- Invariant: the message is never in neither list. The pushes are first: they are what a server
-- without memory refuses, and then nothing has been removed.
local letters, inbound, audit = unpack(KEYS)
if not redis.call('LPOS', letters, ARGV[1], 'RANK', -1) then return 'MISSING' end
redis.call('LPUSH', inbound, ARGV[2])
redis.call('LREM', letters, -1, ARGV[1])
redis.call('RPUSH', audit, '{"at_ms":' .. text(clock()) .. ',' .. ARGV[3])
redis.call('LTRIM', audit, -tonumber(ARGV[4]), -1)
return 'OK'
