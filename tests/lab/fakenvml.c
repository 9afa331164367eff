/* A stub of NVIDIA's management library for tests on machines without a GPU.
 *
 * Here: the calls that the project makes through pynvml, answered from a text file that is read
 * anew at every call, so that a test changes a GPU while a daemon runs. Not here: anything else;
 * pynvml reports a missing symbol as NVMLError_FunctionNotFound.
 *
 * The file is $FAKE_NVML, else /opt/fakenvml/gpus.txt. One GPU a line:
 *     UUID TOTAL_MIB USED_MIB UTIL_PERCENT TEMP_C POWER_MW ERROR NAME WITH BLANKS
 * ERROR != 0 is what every query of that GPU then returns (15: GPU_IS_LOST).
 *     P GPU PID USED_MIB     adds a compute process to a GPU (counted from 0).
 *     L GPU PID USED_MIB     the same while the process lives; its memory is added to the GPU's.
 *     M GPU                  the GPU is split into MIG instances.
 *     X GPU XID              an Xid event; each line is told once, by its place among those of X.
 *     E GPU COUNT            the GPU has ECC, and so many uncorrected errors; each is an event too.
 *     N GPU                  the GPU supports no events.
 * No file: the driver is not loaded (9). */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX_GPUS 16
#define MAX_PROCESSES 256
#define MAX_EVENTS 1024
#define XID_EVENT 8ull
#define ECC_EVENT 2ull
#define POLL_MS 20
#define DEFAULT_FILE "/opt/fakenvml/gpus.txt"

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15, ARGUMENT_VERSION_MISMATCH = 25
};

typedef unsigned long long u64;
typedef struct handle { unsigned index; } *device;

struct gpu { char uuid[96], name[96]; u64 total, used, ecc_errors; unsigned util, temp, power, mig, has_ecc, mute; int error; };
struct process { unsigned gpu, pid; u64 used; };
struct xid { unsigned gpu, number; };
struct state { struct gpu gpus[MAX_GPUS]; unsigned n; struct process processes[MAX_PROCESSES]; unsigned np; struct xid xids[MAX_EVENTS]; unsigned nx; };

static struct handle handles[MAX_GPUS];
static int initialised;

/* A zombie has given its memory back already. */
static int lives(unsigned pid) {
    char path[32], line[512], *name_end;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    file = fopen(path, "re");
    if (!file)
        return 0;
    name_end = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    fclose(file);
    return name_end && name_end[1] == ' ' && name_end[2] != 'Z' && name_end[2] != 'X';
}

/* Each call reads into its own state: pynvml may be called from several threads at once. */
static int load(struct state *s) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = fopen(path ? path : DEFAULT_FILE, "re");
    char line[512];

    s->n = s->np = s->nx = 0;
    if (!file)
        return DRIVER_NOT_LOADED;
    while (fgets(line, sizeof line, file)) {
        struct gpu *g = &s->gpus[s->n];
        struct process *p = &s->processes[s->np];
        line[strcspn(line, "\n")] = 0;
        if (line[0] == '#' || !line[0])
            continue;
        unsigned which, number;
        if (sscanf(line, "M %u", &which) == 1) {
            if (which < s->n)
                s->gpus[which].mig = 1;
        } else if (sscanf(line, "N %u", &which) == 1) {
            if (which < s->n)
                s->gpus[which].mute = 1;
        } else if (sscanf(line, "X %u %u", &which, &number) == 2) {
            if (which < s->n && s->nx < MAX_EVENTS)
                s->xids[s->nx++] = (struct xid){ which, number };
        } else if (sscanf(line, "E %u %u", &which, &number) == 2) {
            if (which < s->n) {
                s->gpus[which].has_ecc = 1;
                s->gpus[which].ecc_errors = number;
            }
        } else if (s->np < MAX_PROCESSES && sscanf(line, "L %u %u %llu", &p->gpu, &p->pid, &p->used) == 3) {
            if (p->gpu < s->n && lives(p->pid)) {
                s->gpus[p->gpu].used += p->used << 20;
                p->used <<= 20;
                s->np++;
            }
        } else if (s->np < MAX_PROCESSES && sscanf(line, "P %u %u %llu", &p->gpu, &p->pid, &p->used) == 3) {
            p->used <<= 20;
            s->np++;
        } else if (s->n < MAX_GPUS
                   && sscanf(line, "%95s %llu %llu %u %u %u %d %95[^\n]", g->uuid, &g->total, &g->used,
                             &g->util, &g->temp, &g->power, &g->error, g->name) == 8) {
            g->total <<= 20;
            g->used <<= 20;
            g->ecc_errors = g->mig = g->has_ecc = g->mute = 0;
            handles[s->n].index = s->n;
            s->n++;
        }
    }
    fclose(file);
    return SUCCESS;
}

static int ready(struct state *s) { return initialised ? load(s) : UNINITIALIZED; }

static int find(device d, struct state *s, struct gpu **g) {
    int error = ready(s);
    if (error)
        return error;
    if (d < handles || d >= handles + s->n)
        return INVALID_ARGUMENT;
    *g = &s->gpus[d - handles];
    return (*g)->error;
}

static int text(char *out, unsigned size, const char *value) {
    if (size <= strlen(value))
        return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

static u64 free_bytes(const struct gpu *g) { return g->used < g->total ? g->total - g->used : 0; }

#define SYSTEM(...) struct state s; int e_ = ready(&s); if (e_) return e_; __VA_ARGS__
#define DEVICE(d) struct state s; struct gpu *g; int e_ = find(d, &s, &g); if (e_) return e_

API int nvmlInitWithFlags(unsigned flags) {
    struct state s;
    int error = load(&s);
    (void)flags;
    if (!error)
        initialised++;
    return error;
}
API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API int nvmlInit(void) { return nvmlInitWithFlags(0); }
API int nvmlShutdown(void) { return initialised ? (initialised--, SUCCESS) : UNINITIALIZED; }
API const char *nvmlErrorString(int error) {
    switch (error) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case NOT_SUPPORTED: return "Not Supported";
    case TIMEOUT: return "Timeout";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Fake error";
    }
}

API int nvmlSystemGetDriverVersion(char *out, unsigned size) { SYSTEM(return text(out, size, "999.99.fake");) }
API int nvmlSystemGetNVMLVersion(char *out, unsigned size) { SYSTEM(return text(out, size, "13.999.99.fake");) }
API int nvmlSystemGetCudaDriverVersion_v2(int *version) { SYSTEM(*version = 13000; return SUCCESS;) }
API int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }
API int nvmlDeviceGetCount_v2(unsigned *count) { SYSTEM(*count = s.n; return SUCCESS;) }
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out) {
    SYSTEM(if (index >= s.n) return INVALID_ARGUMENT;)
    *out = &handles[index];
    return s.gpus[index].error == GPU_IS_LOST ? GPU_IS_LOST : SUCCESS;
}
API int nvmlDeviceGetHandleByUUID(const char *uuid, device *out) {
    SYSTEM(;)
    for (unsigned i = 0; i < s.n; i++)
        if (!strcmp(s.gpus[i].uuid, uuid)) {
            *out = &handles[i];
            return SUCCESS;
        }
    return NOT_FOUND;
}

API int nvmlDeviceGetName(device d, char *out, unsigned size) { DEVICE(d); return text(out, size, g->name); }
API int nvmlDeviceGetUUID(device d, char *out, unsigned size) { DEVICE(d); return text(out, size, g->uuid); }
API int nvmlDeviceGetIndex(device d, unsigned *out) { DEVICE(d); *out = d->index; return SUCCESS; }
API int nvmlDeviceGetMinorNumber(device d, unsigned *out) { DEVICE(d); *out = d->index; return SUCCESS; }
API int nvmlDeviceGetMigMode(device d, unsigned *current, unsigned *pending) { DEVICE(d); *current = *pending = g->mig; return SUCCESS; }
API int nvmlDeviceGetTemperature(device d, int sensor, unsigned *out) { (void)sensor; DEVICE(d); *out = g->temp; return SUCCESS; }
API int nvmlDeviceGetPowerUsage(device d, unsigned *out) { DEVICE(d); *out = g->power; return SUCCESS; }
API int nvmlDeviceGetCudaComputeCapability(device d, int *major, int *minor) { DEVICE(d); *major = 9; *minor = 0; return SUCCESS; }

struct utilization { unsigned gpu, memory; };
API int nvmlDeviceGetUtilizationRates(device d, struct utilization *out) {
    DEVICE(d);
    out->gpu = g->util;
    out->memory = g->total ? (unsigned)(100 * g->used / g->total) : 0;
    return SUCCESS;
}

struct memory { u64 total, free, used; };
API int nvmlDeviceGetMemoryInfo(device d, struct memory *out) {
    DEVICE(d);
    *out = (struct memory){ .total = g->total, .free = free_bytes(g), .used = g->used };
    return SUCCESS;
}
struct memory_v2 { unsigned version; u64 total, reserved, free, used; };
API int nvmlDeviceGetMemoryInfo_v2(device d, struct memory_v2 *out) {
    DEVICE(d);
    if (out->version >> 24 != 2)
        return ARGUMENT_VERSION_MISMATCH;
    out->total = g->total;
    out->reserved = 0;
    out->free = free_bytes(g);
    out->used = g->used;
    return SUCCESS;
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
API int nvmlDeviceGetPciInfo_v3(device d, struct pci *out) {
    DEVICE(d);
    memset(out, 0, sizeof *out);
    out->bus = d->index + 1;
    out->id = 0x233510de;
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
    snprintf(out->legacy, sizeof out->legacy, "0000:%02X:00.0", out->bus);
    return SUCCESS;
}

struct process_info { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; };
API int nvmlDeviceGetComputeRunningProcesses_v3(device d, unsigned *count, struct process_info *out) {
    unsigned found = 0, room = *count;
    DEVICE(d);
    for (unsigned i = 0; i < s.np; i++)
        if (s.processes[i].gpu == d->index) {
            if (found < room)
                out[found] = (struct process_info){ s.processes[i].pid, s.processes[i].used, ~0u, ~0u };
            found++;
        }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
API int nvmlDeviceGetGraphicsRunningProcesses_v3(device d, unsigned *count, struct process_info *out) {
    (void)out;
    DEVICE(d);
    *count = 0;
    return SUCCESS;
}

/* Events. Like the driver's, a set tells what comes after a GPU was registered, not what was before. */
struct event_set { u64 wanted[MAX_GPUS], ecc_told[MAX_GPUS]; unsigned xids_told[MAX_GPUS]; };
struct event { device d; u64 type, data; unsigned gpu_instance, compute_instance; };

static unsigned xids_of(const struct state *s, unsigned gpu) {
    unsigned n = 0;
    for (unsigned i = 0; i < s->nx; i++)
        n += s->xids[i].gpu == gpu;
    return n;
}

API int nvmlDeviceGetSupportedEventTypes(device d, u64 *out) {
    DEVICE(d);
    *out = g->mute ? 0 : XID_EVENT | (g->has_ecc ? ECC_EVENT : 0);
    return SUCCESS;
}
API int nvmlEventSetCreate(struct event_set **out) {
    SYSTEM(;)
    *out = calloc(1, sizeof **out);
    return SUCCESS;
}
API int nvmlEventSetFree(struct event_set *set) { free(set); return SUCCESS; }
API int nvmlDeviceRegisterEvents(device d, u64 types, struct event_set *set) {
    DEVICE(d);
    if (g->mute || types & ~(XID_EVENT | ECC_EVENT))
        return NOT_SUPPORTED;
    set->wanted[d->index] = types;
    set->xids_told[d->index] = xids_of(&s, d->index);
    set->ecc_told[d->index] = g->ecc_errors;
    return SUCCESS;
}

/* The next event that was not told, into `out`; 0: there is none. */
static int next_event(const struct state *s, struct event_set *set, struct event *out) {
    for (unsigned gpu = 0; gpu < s->n; gpu++) {
        unsigned seen = 0;
        for (unsigned i = 0; set->wanted[gpu] & XID_EVENT && i < s->nx; i++)
            if (s->xids[i].gpu == gpu && seen++ == set->xids_told[gpu]) {
                set->xids_told[gpu]++;
                *out = (struct event){ &handles[gpu], XID_EVENT, s->xids[i].number, ~0u, ~0u };
                return 1;
            }
        if (set->wanted[gpu] & ECC_EVENT && s->gpus[gpu].ecc_errors > set->ecc_told[gpu]) {
            set->ecc_told[gpu]++;
            *out = (struct event){ &handles[gpu], ECC_EVENT, 0, ~0u, ~0u };
            return 1;
        }
    }
    return 0;
}

API int nvmlEventSetWait_v2(struct event_set *set, struct event *out, unsigned timeout_ms) {
    for (unsigned waited = 0;; waited += POLL_MS) {
        SYSTEM(;)
        if (next_event(&s, set, out))
            return SUCCESS;
        if (waited >= timeout_ms)
            return TIMEOUT;
        usleep(POLL_MS * 1000);
    }
}
API int nvmlDeviceGetTotalEccErrors(device d, int type, int counter, u64 *out) {
    DEVICE(d);
    if (!g->has_ecc || counter)
        return NOT_SUPPORTED;
    *out = type == 1 ? g->ecc_errors : 0;
    return SUCCESS;
}
