-- Delete keys of a job that is being removed; its record last, alone.  KEYS 1 job  2.. keys
-- Returns whether it still is being removed: if not, another removal was faster, and the keys may be those of the next job.
if redis.call('HGET', KEYS[1], 'uid') ~= '' then
  return 0
end
for i = 2, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
return 1
