-- May this user run these commands? Nothing is run.  ARGV  commands, each as a JSON list of its words
-- Returns the numbers (from 1) of those that are refused.
local refused = {}
for i, command in ipairs(ARGV) do
  if not redis.acl_check_cmd(unpack(cjson.decode(command))) then
    refused[#refused + 1] = i
  end
end
return refused
