# A CGI program of the old kind. The standard library is inside the interpreter's own module.
require "json"

puts "Content-Type: text/plain", ""
if ENV["REQUEST_METHOD"] == "POST"
  puts "#{$stdin.read.bytesize} bytes"
else
  puts "Hello from Ruby #{RUBY_VERSION}, #{JSON.generate(ENV["QUERY_STRING"])}"
end
