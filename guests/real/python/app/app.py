# A CGI program of the old kind. Its standard library comes from the mount /usr.
import json
import os
import sys
from urllib.parse import parse_qs

print("Content-Type: text/plain\n")
if os.environ["REQUEST_METHOD"] == "POST":
    print(len(sys.stdin.buffer.read()), "bytes")
else:
    name = parse_qs(os.environ["QUERY_STRING"]).get("name", ["you"])[0]
    print("Hello from Python", sys.version.split()[0] + ",", json.dumps(name))
