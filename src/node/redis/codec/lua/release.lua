-- RELEASE for a batch of distinct keys: one MGET, one DEL of what is ours.
-- KEYS: the lock keys. ARGV: their tokens; mark.
-- Replies the mark alone if all were ours and are deleted: nearly always, and a list
-- would be the larger part of the reply. Else {mark, list}: 1 deleted, 0 nothing
-- there, -1 somebody else's.
local held = redis.call('MGET', unpack(KEYS))
local ours = {}
for i = 1, #KEYS do
  if held[i] == ARGV[i] then ours[#ours + 1] = KEYS[i] end
end
if #ours > 0 then redis.call('DEL', unpack(ours)) end
if #ours == #KEYS then return ARGV[#ARGV] end

local replies = {}
for i = 1, #KEYS do
  replies[i] = held[i] == ARGV[i] and 1 or held[i] and -1 or 0
end
return { ARGV[#ARGV], replies }
