-- Make the coordinator look at once.  KEYS 1 wake
redis.call('LPUSH', KEYS[1], '1')
redis.call('LTRIM', KEYS[1], 0, 99)
return 1
