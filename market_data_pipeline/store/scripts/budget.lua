-- A place in a budget: virtual scheduling (the generic cell rate algorithm, ITU-T I.371) by this server's clock.
-- KEYS  1 budget    ARGV  1 spacing of requests (microseconds)  2 burst  3 requests  4 longest wait (microseconds)
-- The hash holds 'due', when nothing will be used up any more, and 'at', when that was written (microseconds, exact to 2^53).
-- Returns the microseconds until the place, which is taken then; below 0: it would be so far away, nothing is taken.
local time = redis.call('TIME')
local now, interval = tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(ARGV[1])
local kept = redis.call('HMGET', KEYS[1], 'due', 'at')
local due, at = tonumber(kept[1] or now), tonumber(kept[2] or now)
local back = now < at
if back then -- the clock went back: as if it had stood still
  due = due - (at - now)
end
local place = math.max(due, now) + tonumber(ARGV[3]) * interval
local wait = math.max(0, place - tonumber(ARGV[2]) * interval - now)
local taken = wait <= tonumber(ARGV[4])
if taken then
  due = place
end
if taken or back then
  redis.call('HSET', KEYS[1], 'due', string.format('%.0f', due), 'at', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[1], math.max(1, math.ceil((due - now) / 1000))) -- what is full is as if it was not there
end
return taken and wait or -wait
