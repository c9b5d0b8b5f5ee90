-- ACQUIRE for a batch of distinct keys.
-- KEYS: id, counters, then the lock keys.
-- ARGV: the view, then token, ttl, slot and floor for each lock key; mark.
-- Replies {mark, answer}: the view served ('' for none) where it is another;
-- else a list, for each key its count if granted, {remaining ttl, holder} if
-- busy, or the name of an error.
local serving = redis.call('GET', KEYS[1]) or ''
if serving ~= ARGV[1] then return { ARGV[#ARGV], serving } end

local counts, replies = {}, {}
for i = 3, #KEYS do
  local at = (i - 3) * 4 + 2
  local token, ttl, slot, floor = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local count = counts[slot] or tonumber(redis.call('HGET', KEYS[2], slot) or 0)
  count = math.max(count + 1, floor)
  counts[slot] = count

  local reply = count
  if not redis.call('SET', KEYS[i], token, 'NX', 'PX', ttl) then
    local holder = redis.pcall('GET', KEYS[i])
    if type(holder) == 'table' then
      reply = 'WRONGTYPE'
    else
      local left = redis.call('PTTL', KEYS[i])
      if holder ~= token then
        reply = { left, holder }
      elseif left < tonumber(ttl) then
        -- Below 0: it has lost its expiry, and gets one again.
        redis.call('PEXPIRE', KEYS[i], ttl)
      end
    end
  end
  replies[#replies + 1] = reply
end
-- Not tostring: it would write large counts with an exponent.
for slot, count in pairs(counts) do
  redis.call('HSET', KEYS[2], slot, string.format('%.0f', count))
end
return { ARGV[#ARGV], replies }
