-- PAST. KEYS: id, member. ARGV: incarnation, mark. Replies {mark, {highest epoch
-- served, milliseconds in quarantine}}: 0 for no epoch; -1 where it is not
-- quarantined, or it is not known since when.
local member = redis.call('HMGET', KEYS[2], 'inc', 'epoch', 'past', 'since')
local epoch = math.max(tonumber(member[2] or 0) or 0, tonumber(member[3] or 0) or 0)
local since = tonumber(member[4] or '')
local span = -1
-- `epoch` is there from ADOPT to QUARANTINE. A version that does not know
-- `since` leaves it there in ADOPT: it then says nothing.
if since and member[1] == ARGV[1] and not member[2] and not redis.call('GET', KEYS[1]) then
  local time = redis.call('TIME')
  span = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - since)
end
return { ARGV[#ARGV], { epoch, span } }
