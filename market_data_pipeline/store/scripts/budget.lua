-- A place in a budget: virtual scheduling (the generic cell rate algorithm, ITU-T I.371) by this server's clock.
-- KEYS  1 budget    ARGV  1 spacing of requests (microseconds)  2 burst  3 requests  4 longest wait (microseconds)
-- The hash holds 'due', when nothing will be used up any more, 'at', when that was written, and 'room', what the smallest burst of
-- those who asked since then allows beyond one request (microseconds, exact to 2^53).
-- Returns the microseconds until the place of all requests, which is taken then; below 0: the first one's would be so far away,
-- nothing is taken.
local time = redis.call('TIME')
local now, interval = tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(ARGV[1])
local kept = redis.call('HMGET', KEYS[1], 'due', 'at', 'room')
local due, at = tonumber(kept[1] or now), tonumber(kept[2] or now)
local back = now < at
if back then -- the clock went back: as if it had stood still
  due, at = due - (at - now), now
end
local own = (tonumber(ARGV[2]) - 1) * interval
local before = due > now and tonumber(kept[3] or own) or own
local room = math.min(own, before)
local begin = math.max(due, now)
local wait = math.max(0, begin - room - now) -- of the first request
local taken = wait <= tonumber(ARGV[4])
if taken then
  due, at = begin + tonumber(ARGV[3]) * interval, now
  wait = math.max(0, due - interval - room - now)
end
if taken or back or room < before then -- else those with more room would come first for ever
  redis.call('HSET', KEYS[1], 'due', string.format('%.0f', due), 'at', string.format('%.0f', at),
    'room', string.format('%.0f', room))
  redis.call('PEXPIRE', KEYS[1], math.max(1, math.ceil((due - now) / 1000))) -- what is full is as if it was not there
end
return taken and wait or -wait
