# Smollm2 135M 8k Lc100K Mix1 Ep2, cpu-1 act=int8 kv=f16 on amx, 1 threads, chunks of 256
# residual (relative, root mean square): prefill 1.8 % of 9 points, decode 5.6 % of 9
prefill-us = 537.32
prefill-token-us = 540.845
prefill-context-us = 132.8446
decode-us = 3648.69
decode-seq-us = 592.084
decode-context-us = 2.3420
kv-bytes-per-token = 23040
