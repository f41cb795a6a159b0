/* cpulimit.h -- how many CPUs this process may use at once.
 *
 * Purpose    Default numbers of threads. A container is given CPUs in two ways: a set it may run on
 *            (affinity mask, cpuset, taskset), and a quota of time (cgroup cpu.max, or
 *            cpu.cfs_quota_us of version 1). With a thread for each CPU of a large host, a quota of
 *            two is spent at once by threads that wait for each other, and all stand still.
 * Ownership  Values.
 * Threads    Any.
 * Limits     cgroups below /sys/fs/cgroup, where every distribution and container runtime mounts
 *            them. What cannot be read is no limit.
 */
#ifndef ENGINE_BASE_CPULIMIT_H
#define ENGINE_BASE_CPULIMIT_H

#include <stdint.h>

/* CPUs in the calling thread's mask, or fewer where the quota is smaller; at least 1. */
int32_t cpulimit_cpus(void);

/* The smallest quota of a process's groups and all that they are in, in CPUs rounded up; 0: none.
 * `groups`: its /proc/PID/cgroup as text; `mount`: where cgroups are mounted. */
int32_t cpulimit_quota(const char *groups, const char *mount);

#endif
