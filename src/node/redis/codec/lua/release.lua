-- RELEASE for a batch of distinct keys: one MGET, one DEL of what is ours.
-- KEYS: the lock keys. ARGV: their tokens; mark.
-- Replies {mark, list}: 1 deleted, 0 nothing there, -1 somebody else's.
local held = redis.call('MGET', unpack(KEYS))
local ours, replies = {}, {}
for i = 1, #KEYS do
  if held[i] == ARGV[i] then
    ours[#ours + 1] = KEYS[i]
    replies[i] = 1
  else
    replies[i] = held[i] and -1 or 0
  end
end
if #ours > 0 then redis.call('DEL', unpack(ours)) end
return { ARGV[#ARGV], replies }
