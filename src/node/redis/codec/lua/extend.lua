-- EXTEND for a batch of distinct keys.
-- KEYS: id, counters, then the lock keys.
-- ARGV: the view, then token, ttl, slot, floor and mode for each lock key; mark.
-- Replies {mark, answer}: the view served ('' for none) where it is another;
-- else a list, for each key {'kept' or 'made', count}, {'lost'},
-- {'lost', remaining ttl, holder}, or the name of an error.
local serving = redis.call('GET', KEYS[1]) or ''
if serving ~= ARGV[1] then return { ARGV[#ARGV], serving } end

local function raised(slot, floor)
  local count = tonumber(redis.call('HGET', KEYS[2], slot) or 0)
  if floor > count then
    -- Not tostring: it would write large counts with an exponent.
    redis.call('HSET', KEYS[2], slot, string.format('%.0f', floor))
    return floor
  end
  return count
end

local replies = {}
for i = 3, #KEYS do
  local at = (i - 3) * 5 + 2
  local token, ttl, slot, floor = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local heals = ARGV[at + 4] == 'heal'
  local holder = redis.pcall('GET', KEYS[i])
  local reply
  if type(holder) == 'table' then
    reply = 'WRONGTYPE'
  elseif holder == token then
    -- Never shorten: a late or repeated extend must do no harm. Below 0: it has
    -- lost its expiry, and gets one again.
    local left = redis.call('PTTL', KEYS[i])
    if left < tonumber(ttl) then redis.call('PEXPIRE', KEYS[i], ttl) end
    reply = { 'kept', raised(slot, floor) }
  elseif holder then
    reply = { 'lost', redis.call('PTTL', KEYS[i]), holder }
  elseif heals then
    redis.call('SET', KEYS[i], token, 'PX', ttl)
    reply = { 'made', raised(slot, floor) }
  else
    reply = { 'lost' }
  end
  replies[#replies + 1] = reply
end
return { ARGV[#ARGV], replies }
