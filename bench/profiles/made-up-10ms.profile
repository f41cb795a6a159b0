# Not measured: short steps, so that what is left is the cost of processes, messages and the gateway.
prefill-us = 2000
prefill-token-us = 20
prefill-context-us = 0
decode-us = 10000
decode-seq-us = 100
decode-context-us = 0
kv-gbps = 10
kv-bytes-per-token = 23040
kv-pages = 4096
