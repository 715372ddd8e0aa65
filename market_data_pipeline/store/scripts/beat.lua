-- A worker lives.  KEYS 1 heartbeat  2 workers    ARGV 1 heartbeat  2 ttl (ms)  3 name
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
return 1
