/* fr_zone_loads.h: which process owns which row of a zone's loads (fr_loads.h): taken on opening, given up on closing,
 * taken away when the process is gone.
 *
 * Gone = no such pid, or a pid that started at another time, or a zombie. Pids are judged within one pid namespace alone; a
 * row of another one goes when its owner has not said for FR_LOADS_SILENT_MS that it lives. A row is cleared before its pid is stored, so that a process
 * killed in between leaves a row that counts nothing.
 *
 * Rules: rows are taken under the directory's lock; giving up and taking away are one store. Looking after others costs two
 * system calls and some 10 us, and is done by fr_loads_look, at most once per FR_LOADS_LOOK_MS and process: one row a time.
 */
#ifndef FR_ZONE_LOADS_H
#define FR_ZONE_LOADS_H

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "fr_zone.h"

/* With 8 processes a dead one is found within 0.4 s; its requests in flight count until then. */
#define FR_LOADS_LOOK_MS 50u

#define FR_LOADS_SILENT_MS 60000u

enum { FR_PROCESS_GONE = 0, FR_PROCESS_THERE = 1 };

static inline fr_load_process *fr_zone_processes(const fr_zone *zone)
{
    return (fr_load_process *)(zone->base + zone->plan.processes_at);
}

static inline int32_t *fr_zone_load_row(const fr_zone *zone, uint32_t row)
{
    return (int32_t *)(zone->base + zone->plan.loads_at) + (size_t)row * zone->plan.load_words;
}

/* State and start time of a process from /proc/PID/stat; 0, or -1 when there is none. */
static inline int fr_process_stat(uint32_t pid, char *state, uint64_t *started)
{
    char path[32], text[1024], *at;
    ssize_t size;
    int fd;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0)
        return -1;
    text[size] = 0;
    at = strrchr(text, ')'); /* the name before it may hold anything */
    if (!at || at[1] != ' ')
        return -1;
    *state = at[2];
    at += 2;
    for (int field = 3; field < 22; field++) {
        at = strchr(at + 1, ' ');
        if (!at)
            return -1;
    }
    *started = 0;
    for (at++; *at >= '0' && *at <= '9'; at++)
        *started = *started * 10 + (uint64_t)(*at - '0');
    return 0;
}

static inline uint64_t fr_pid_namespace(void)
{
    struct stat facts;
    return stat("/proc/self/ns/pid", &facts) ? 0 : (uint64_t)facts.st_ino;
}

static inline int fr_process_judge(const fr_load_process *process, uint64_t own_namespace)
{
    static const fr_clock system_clock = {0};
    char state;
    uint64_t started, was = FR_GET(&process->started);
    uint32_t pid = FR_GET_ACQUIRE(&process->pid);
    if (FR_GET(&process->pid_namespace) != own_namespace)
        return FR_GET(&process->seen_ms) + FR_LOADS_SILENT_MS < fr_now_ms(&system_clock) ? FR_PROCESS_GONE : FR_PROCESS_THERE;
    if (kill((pid_t)pid, 0) && errno == ESRCH)
        return FR_PROCESS_GONE;
    if (!was || fr_process_stat(pid, &state, &started))
        return FR_PROCESS_THERE; /* no /proc: kill() is all there is */
    return started == was && state != 'Z' && state != 'X' ? FR_PROCESS_THERE : FR_PROCESS_GONE;
}

/* Take a row for this process; its index, or -1: all rows belong to others, or a stopped process holds the directory. */
static inline int fr_loads_enter(fr_zone *zone)
{
    fr_load_process *processes = fr_zone_processes(zone);
    uint64_t own_namespace = fr_pid_namespace(), started = 0;
    static const fr_clock system_clock = {0};
    char state;
    int taken = -1;
    (void)fr_process_stat((uint32_t)getpid(), &state, &started);
    if (fr_directory_lock(zone) == FR_LOCK_BUSY)
        return -1;
    for (int look = 0; look < 2 && taken < 0; look++) /* free rows first, then those of the dead */
        for (uint32_t row = 0; row < zone->plan.load_rows; row++) {
            fr_load_process *process = &processes[row];
            uint32_t pid = FR_GET_ACQUIRE(&process->pid);
            if (pid && (!look || fr_process_judge(process, own_namespace)))
                continue;
            FR_PUT(&process->pid, 0u);
            FR_KILL_POINT();
            memset(fr_zone_load_row(zone, row), 0, zone->plan.load_words * sizeof(int32_t));
            FR_PUT(&process->started, started);
            FR_KILL_POINT();
            FR_PUT(&process->pid_namespace, own_namespace);
            FR_KILL_POINT();
            FR_PUT(&process->seen_ms, fr_now_ms(&system_clock));
            FR_KILL_POINT();
            FR_PUT_RELEASE(&process->pid, (uint32_t)getpid());
            FR_KILL_POINT();
            taken = (int)row;
            break;
        }
    fr_unlock(&zone->header->lock);
    return taken;
}

/* Give a row up, if it is this process's: all it counted is gone. */
static inline void fr_loads_leave(fr_zone *zone, int row)
{
    if (row >= 0 && FR_GET(&fr_zone_processes(zone)[row].pid) == (uint32_t)getpid())
        FR_PUT_RELEASE(&fr_zone_processes(zone)[row].pid, 0u);
}

/* Is the process of this row gone? Then its row counts nothing from now on. */
static inline int fr_loads_reap(fr_zone *zone, uint32_t row, uint64_t own_namespace)
{
    fr_load_process *process = &fr_zone_processes(zone)[row];
    uint32_t pid = FR_GET_ACQUIRE(&process->pid);
    if (!pid || fr_process_judge(process, own_namespace) == FR_PROCESS_THERE)
        return 0;
    return __atomic_compare_exchange_n(&process->pid, &pid, 0, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Say that this process lives, and look after the next other row. */
static inline void fr_loads_look(fr_zone *zone, int own_row, uint32_t *next_row, uint64_t own_namespace, uint64_t now_ms)
{
    fr_load_process *processes = fr_zone_processes(zone);
    if (own_row >= 0)
        FR_PUT(&processes[own_row].seen_ms, now_ms);
    for (uint32_t i = 0; i < zone->plan.load_rows; i++) {
        uint32_t row = *next_row % zone->plan.load_rows;
        *next_row = row + 1;
        if ((int)row != own_row && FR_GET(&processes[row].pid)) {
            (void)fr_loads_reap(zone, row, own_namespace);
            break;
        }
    }
}

#endif
