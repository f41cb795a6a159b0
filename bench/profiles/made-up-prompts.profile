# Not measured: an accelerator that computes 22,000 prompt tokens a second and decodes in 4 ms, whose cache
# holds some beginnings of prompts and not all: what routing is worth shows.
prefill-us = 500
prefill-token-us = 45
prefill-context-us = 0
decode-us = 4000
decode-seq-us = 100
decode-context-us = 0
kv-gbps = 10
kv-bytes-per-token = 23040
kv-pages = 4096
