/* A libnvidia-ml.so.1 without a driver behind it: its state comes from the text file named by $FAKE_NVML_STATE,
 * re-read whenever its inode/mtime/size changes, so a test can change it at run time.
 *
 *   driver 570.86.15            nvml 12.570.86.15          cuda 12080
 *   gpu uuid=GPU-... name=NVIDIA_H100_80GB_HBM3 total=85520809984 used=0 reserved=0 util=0 memutil=0
 *       temp=33 power=70000 limit=700000 energy=0 bus=00000000:0A:00.0 minor=0 cc=9.0 mig=0|1|-1 lost=0 persist=1
 *       [numa=0 bridge=0 switch=0.1]   (its place in the PCIe tree: the NUMA node, the host bridge, and the switches from
 *       there on; two cards of one switch, of one first switch, of one bridge, of one node, or none of these. A card
 *       without numa has no place, and the common ancestor of it and another is "not supported")
 *   link gpu=0 to=1 n=4                        (NVLinks between two cards)
 *   link gpu=0 bus=00000000:C0:00.0 n=18       (NVLinks of a card to a switch, through which it reaches others)
 *   mig gpu=0 uuid=MIG-... name=... total=10200547328 used=0 reserved=0      (instances of a gpu with mig=1, in order)
 *   proc gpu=0 pid=123 mem=1073741824 [type=C|G|M] [mig=MIG-...]
 *   fault fn=nvmlDeviceGetUtil* [gpu=1] [ret=15] [delay=2500] [crash=1]
 *         (fn is a glob; first match wins; the delay comes first; crash=1 ends the process by SIGSEGV)
 *   xid seq=1 gpu=0 code=79                    (delivered once per event set when seq is new)
 * One item per line; '#' starts a comment; '_' in name= stands for a space.
 * $FAKE_NVML_LOG: append "<pid> <tid> <monotonic ns> <function> <gpu> <ret>" for every call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef unsigned int u32; typedef unsigned long long u64; typedef int ret_t; typedef void *dev_t_;
enum { OK=0, UNINIT=1, INVAL=2, NOTSUP=3, NOTFOUND=6, SMALL=7, NODRV=9, TIMEOUT=10, LOST=15, VERMISMATCH=25 };
#define MAXG 32
#define MAXP 256
#define MAXF 32
#define MAXX 64
#define HBASE ((uintptr_t)0x6e760000u)   /* handles of cards */
#define MBASE ((uintptr_t)0x6e770000u)   /* handles of MIG devices */
#define MAXM 64
#define MAXL 128

struct gpu { char uuid[96], name[96], bus[32]; u64 total, used, reserved, energy; u32 util, memutil, temp, power, limit, minor, ccM, ccm; int mig, lost, persist, numa, bridge; char sw[32]; };
struct link { int gpu, to, n; char bus[32]; };
struct mig { char uuid[96], name[96]; int gpu; u64 total, used, reserved; };
struct proc { int gpu; u32 pid; u64 mem; char type, mig[96]; };
struct fault { char fn[80]; int gpu, ret, delay, crash; };
struct xid { u64 seq, code; int gpu; };
struct state { char driver[80], nvml[80]; int cuda, ng, nm, np, nf, nx, nl; struct gpu g[MAXG]; struct mig m[MAXM]; struct proc p[MAXP]; struct fault f[MAXF]; struct xid x[MAXX]; struct link l[MAXL]; };
struct evset { u64 last; u64 types[MAXG]; };

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct state st; static struct stat seen; static int inited, have;

static const char *kv(const char *line, const char *key, char *buf, size_t n) {
  char pat[40]; snprintf(pat, sizeof pat, " %s=", key);
  const char *p = strstr(line, pat); if (!p) return NULL;
  p += strlen(pat); size_t i = 0; while (p[i] && p[i] != ' ' && p[i] != '\n' && i + 1 < n) { buf[i] = p[i]; i++; }
  buf[i] = 0; return buf;
}
static u64 num(const char *line, const char *key, u64 def) { char b[64]; return kv(line, key, b, sizeof b) ? strtoull(b, NULL, 0) : def; }
static int inum(const char *line, const char *key, int def) { char b[64]; return kv(line, key, b, sizeof b) ? atoi(b) : def; }

static void parse(FILE *f, struct state *s) {
  char *line = NULL; size_t cap = 0; char b[256];
  memset(s, 0, sizeof *s); strcpy(s->driver, "570.86.15"); strcpy(s->nvml, "12.570.86.15"); s->cuda = 12080;
  while (getline(&line, &cap, f) > 0) {
    char *h = strchr(line, '#'); if (h) *h = 0;
    for (char *c = line; *c; c++) if (*c == '\t' || *c == '\n' || *c == '\r') *c = ' ';
    if (!strncmp(line, "driver ", 7)) sscanf(line + 7, "%79s", s->driver);
    else if (!strncmp(line, "nvml ", 5)) sscanf(line + 5, "%79s", s->nvml);
    else if (!strncmp(line, "cuda ", 5)) s->cuda = atoi(line + 5);
    else if (!strncmp(line, "gpu ", 4) && s->ng < MAXG) {
      struct gpu *g = &s->g[s->ng]; int i = s->ng++;
      if (!kv(line, "uuid", g->uuid, sizeof g->uuid)) snprintf(g->uuid, sizeof g->uuid, "GPU-00000000-0000-0000-0000-%012d", i);
      if (!kv(line, "name", g->name, sizeof g->name)) strcpy(g->name, "Fake_GPU");
      for (char *c = g->name; *c; c++) if (*c == '_') *c = ' ';
      if (!kv(line, "bus", g->bus, sizeof g->bus)) snprintf(g->bus, sizeof g->bus, "00000000:%02X:00.0", i + 1);
      g->total = num(line, "total", 80ull << 30); g->used = num(line, "used", 0); g->reserved = num(line, "reserved", 0);
      g->util = num(line, "util", 0); g->memutil = num(line, "memutil", 0); g->temp = num(line, "temp", 33); g->power = num(line, "power", 70000);
      g->limit = num(line, "limit", 700000); g->energy = num(line, "energy", 0); g->minor = num(line, "minor", i); g->mig = inum(line, "mig", -1); g->lost = inum(line, "lost", 0); g->persist = inum(line, "persist", 1);
      g->numa = inum(line, "numa", -1); g->bridge = inum(line, "bridge", i); if (!kv(line, "switch", g->sw, sizeof g->sw)) g->sw[0] = 0;
      g->ccM = 9; g->ccm = 0; if (kv(line, "cc", b, sizeof b)) sscanf(b, "%u.%u", &g->ccM, &g->ccm);
    } else if (!strncmp(line, "link ", 5) && s->nl < MAXL) {
      struct link *l = &s->l[s->nl++]; l->gpu = inum(line, "gpu", 0); l->to = inum(line, "to", -1); l->n = inum(line, "n", 1);
      if (!kv(line, "bus", l->bus, sizeof l->bus)) l->bus[0] = 0;
    } else if (!strncmp(line, "mig ", 4) && s->nm < MAXM) {
      struct mig *m = &s->m[s->nm]; int i = s->nm++;
      if (!kv(line, "uuid", m->uuid, sizeof m->uuid)) snprintf(m->uuid, sizeof m->uuid, "MIG-00000000-0000-0000-0000-%012d", i);
      if (!kv(line, "name", m->name, sizeof m->name)) strcpy(m->name, "Fake_GPU_MIG_1g.10gb");
      for (char *c = m->name; *c; c++) if (*c == '_') *c = ' ';
      m->gpu = inum(line, "gpu", 0); m->total = num(line, "total", 10ull << 30); m->used = num(line, "used", 0); m->reserved = num(line, "reserved", 0);
    } else if (!strncmp(line, "proc ", 5) && s->np < MAXP) {
      struct proc *p = &s->p[s->np++]; p->gpu = inum(line, "gpu", 0); p->pid = num(line, "pid", 1); p->mem = num(line, "mem", 0); p->type = kv(line, "type", b, sizeof b) ? b[0] : 'C';
      kv(line, "mig", p->mig, sizeof p->mig);
    } else if (!strncmp(line, "fault ", 6) && s->nf < MAXF) {
      struct fault *q = &s->f[s->nf++]; if (!kv(line, "fn", q->fn, sizeof q->fn)) strcpy(q->fn, "*");
      q->gpu = inum(line, "gpu", -1); q->ret = inum(line, "ret", 0); q->delay = inum(line, "delay", 0); q->crash = inum(line, "crash", 0);
    } else if (!strncmp(line, "xid ", 4) && s->nx < MAXX) {
      struct xid *x = &s->x[s->nx++]; x->seq = num(line, "seq", 1); x->gpu = inum(line, "gpu", 0); x->code = num(line, "code", 79);
    }
  }
  free(line);
}
static void refresh(void) { /* call with mu held */
  const char *path = getenv("FAKE_NVML_STATE"); struct stat s;
  if (!path || stat(path, &s)) { have = 0; return; }
  if (have && s.st_ino == seen.st_ino && s.st_size == seen.st_size && s.st_mtim.tv_sec == seen.st_mtim.tv_sec && s.st_mtim.tv_nsec == seen.st_mtim.tv_nsec) return;
  FILE *f = fopen(path, "re"); if (!f) { have = 0; return; }
  fstat(fileno(f), &seen); parse(f, &st); fclose(f); have = 1;
}
static void logcall(const char *fn, int gpu, int ret) {
  const char *path = getenv("FAKE_NVML_LOG"); if (!path) return;
  struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); char b[200];
  int n = snprintf(b, sizeof b, "%d %ld %lld %s %d %d\n", getpid(), syscall(SYS_gettid), (long long)t.tv_sec * 1000000000ll + t.tv_nsec, fn, gpu, ret);
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666); if (fd >= 0) { (void)!write(fd, b, n); close(fd); }
}
/* Copies the state, applies faults and the uninitialised check. idx -1: a call without a device. */
static ret_t enter(const char *fn, int idx, struct state *out) {
  int ret = OK, delay = 0, crash = 0;
  pthread_mutex_lock(&mu); refresh();
  if (!have) ret = NODRV; else if (!inited && strncmp(fn, "nvmlInit", 8)) ret = UNINIT;
  else if (idx >= 0 && idx >= st.ng) ret = INVAL;
  else {
    for (int i = 0; i < st.nf; i++) if ((st.f[i].gpu < 0 || st.f[i].gpu == idx) && !fnmatch(st.f[i].fn, fn, 0)) { ret = st.f[i].ret; delay = st.f[i].delay; crash = st.f[i].crash; break; }
    if (ret == OK && idx >= 0 && st.g[idx].lost) ret = LOST;
  }
  if (out) *out = st;
  pthread_mutex_unlock(&mu);
  if (delay > 0) { struct timespec t = { delay / 1000, (delay % 1000) * 1000000L }; while (nanosleep(&t, &t) && errno == EINTR) ; }
  if (crash) raise(SIGSEGV);
  logcall(fn, idx, ret); return ret;
}
/* The MIG device a handle means, -1 for a card's; then the card. A place that holds no device any more is past the end. */
static int mx(dev_t_ d) { uintptr_t v = (uintptr_t)d; return v >= MBASE && v < MBASE + MAXM ? (int)(v - MBASE) : -1; }
static int ix(dev_t_ d) {
  uintptr_t v = (uintptr_t)d; int m = mx(d), gpu = MAXG + 1;
  if (m >= 0) { pthread_mutex_lock(&mu); refresh(); if (have && m < st.nm) gpu = st.m[m].gpu; pthread_mutex_unlock(&mu); return gpu; }
  return v >= HBASE && v < HBASE + MAXG ? (int)(v - HBASE) : gpu;
}
static ret_t str(char *dst, u32 n, const char *src) { if (strlen(src) + 1 > n) return SMALL; strcpy(dst, src); return OK; }
#define ENTER0(name) struct state s; ret_t r = enter(#name, -1, &s); if (r) return r
/* ENTER: calls that a MIG device does not support. ENTERM: those that it does; `m` is NULL for a whole card. */
#define ENTERM(name) struct state s; int i = ix(d); ret_t r = enter(#name, i, &s); if (r) return r; struct gpu *g = &s.g[i]; (void)g; \
  struct mig *m = mx(d) < 0 ? NULL : &s.m[mx(d)]; (void)m
#define ENTER(name) ENTERM(name); if (m) return NOTSUP

ret_t nvmlInitWithFlags(u32 flags) { (void)flags; ret_t r = enter("nvmlInitWithFlags", -1, NULL); if (r) return r; pthread_mutex_lock(&mu); inited++; pthread_mutex_unlock(&mu); return OK; }
ret_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
ret_t nvmlInit(void) { return nvmlInitWithFlags(0); }
ret_t nvmlShutdown(void) { ret_t r = enter("nvmlShutdown", -1, NULL); if (r) return r; pthread_mutex_lock(&mu); inited--; pthread_mutex_unlock(&mu); return OK; }
const char *nvmlErrorString(ret_t r) {
  switch (r) { case 0: return "Success"; case 1: return "Uninitialized"; case 2: return "Invalid Argument"; case 3: return "Not Supported"; case 4: return "Insufficient Permissions"; case 6: return "Not Found"; case 7: return "Insufficient Size"; case 9: return "Driver Not Loaded"; case 10: return "Timeout"; case 12: return "NVML Shared Library Not Found"; case 13: return "Function Not Found"; case 15: return "GPU is lost"; case 16: return "GPU requires reset"; case 18: return "Driver/library version mismatch"; case 19: return "GPU is in use by another client"; case 25: return "Argument version mismatch"; case 999: return "Unknown Error"; } return "Unknown Error"; }
ret_t nvmlSystemGetDriverVersion(char *v, u32 n) { ENTER0(nvmlSystemGetDriverVersion); return str(v, n, s.driver); }
ret_t nvmlSystemGetNVMLVersion(char *v, u32 n) { ENTER0(nvmlSystemGetNVMLVersion); return str(v, n, s.nvml); }
ret_t nvmlSystemGetCudaDriverVersion_v2(int *v) { ENTER0(nvmlSystemGetCudaDriverVersion_v2); *v = s.cuda; return OK; }
ret_t nvmlSystemGetCudaDriverVersion(int *v) { return nvmlSystemGetCudaDriverVersion_v2(v); }
ret_t nvmlSystemGetProcessName(u32 pid, char *name, u32 n) { ENTER0(nvmlSystemGetProcessName); char p[64], b[256]; snprintf(p, sizeof p, "/proc/%u/exe", pid); ssize_t k = readlink(p, b, sizeof b - 1); if (k < 0) return NOTFOUND; b[k] = 0; return str(name, n, b); }
ret_t nvmlDeviceGetCount_v2(u32 *n) { ENTER0(nvmlDeviceGetCount_v2); *n = s.ng; return OK; }
ret_t nvmlDeviceGetCount(u32 *n) { return nvmlDeviceGetCount_v2(n); }
ret_t nvmlDeviceGetHandleByIndex_v2(u32 k, dev_t_ *d) { ret_t r = enter("nvmlDeviceGetHandleByIndex_v2", (int)k, NULL); if (r) return r; *d = (void *)(HBASE + k); return OK; }
ret_t nvmlDeviceGetHandleByIndex(u32 k, dev_t_ *d) { return nvmlDeviceGetHandleByIndex_v2(k, d); }
ret_t nvmlDeviceGetHandleByUUID(const char *u, dev_t_ *d) { ENTER0(nvmlDeviceGetHandleByUUID); for (int k = 0; k < s.ng; k++) if (u && !strcmp(u, s.g[k].uuid)) { if (s.g[k].lost) return LOST; *d = (void *)(HBASE + k); return OK; } return NOTFOUND; }
ret_t nvmlDeviceGetHandleByPciBusId_v2(const char *u, dev_t_ *d) { ENTER0(nvmlDeviceGetHandleByPciBusId_v2); for (int k = 0; k < s.ng; k++) if (u && !strcasecmp(u, s.g[k].bus)) { *d = (void *)(HBASE + k); return OK; } return NOTFOUND; }
ret_t nvmlDeviceGetIndex(dev_t_ d, u32 *k) { ENTER(nvmlDeviceGetIndex); *k = i; return OK; }
ret_t nvmlDeviceGetUUID(dev_t_ d, char *v, u32 n) { ENTERM(nvmlDeviceGetUUID); return str(v, n, m ? m->uuid : g->uuid); }
ret_t nvmlDeviceGetName(dev_t_ d, char *v, u32 n) { ENTERM(nvmlDeviceGetName); return str(v, n, m ? m->name : g->name); }
ret_t nvmlDeviceGetMinorNumber(dev_t_ d, u32 *v) { ENTER(nvmlDeviceGetMinorNumber); *v = g->minor; return OK; }
struct mem1 { u64 total, free, used; }; struct mem2 { u32 version; u64 total, reserved, free, used; };
#define MEMORY(field) (m ? m->field : g->field)
ret_t nvmlDeviceGetMemoryInfo(dev_t_ d, struct mem1 *o) { ENTERM(nvmlDeviceGetMemoryInfo); o->total = MEMORY(total); o->used = MEMORY(used) + MEMORY(reserved); o->free = o->total - o->used; return OK; }
ret_t nvmlDeviceGetMemoryInfo_v2(dev_t_ d, struct mem2 *o) { ENTERM(nvmlDeviceGetMemoryInfo_v2); if (o->version != (sizeof *o | 2u << 24)) return VERMISMATCH; o->total = MEMORY(total); o->used = MEMORY(used); o->reserved = MEMORY(reserved); o->free = o->total - o->used - o->reserved; return OK; }
struct util { u32 gpu, memory; };
ret_t nvmlDeviceGetUtilizationRates(dev_t_ d, struct util *u) { ENTER(nvmlDeviceGetUtilizationRates); u->gpu = g->util; u->memory = g->memutil; return OK; }
struct pinfo { u32 pid; u64 mem; u32 gi, ci; };
static int listed(struct proc *p, int i, struct mig *m, char type) { return p->gpu == i && p->type == type && (!m || !strcmp(p->mig, m->uuid)); }
static ret_t procs(struct state *s, int i, struct mig *m, char type, u32 *n, struct pinfo *out) {
  u32 k = 0; for (int j = 0; j < s->np; j++) k += listed(&s->p[j], i, m, type);
  if (!k) { *n = 0; return OK; } if (!out || *n < k) { *n = k; return SMALL; }
  k = 0; for (int j = 0; j < s->np; j++) if (listed(&s->p[j], i, m, type)) { out[k].pid = s->p[j].pid; out[k].mem = s->p[j].mem; out[k].gi = out[k].ci = 0xffffffffu; k++; }
  *n = k; return OK; }
#define PROCS(F, T) ret_t F(dev_t_ d, u32 *n, struct pinfo *out) { ENTERM(F); return procs(&s, i, m, T, n, out); }
PROCS(nvmlDeviceGetComputeRunningProcesses_v3, 'C') PROCS(nvmlDeviceGetComputeRunningProcesses_v2, 'C')
PROCS(nvmlDeviceGetGraphicsRunningProcesses_v3, 'G') PROCS(nvmlDeviceGetGraphicsRunningProcesses_v2, 'G')
PROCS(nvmlDeviceGetMPSComputeRunningProcesses_v3, 'M') PROCS(nvmlDeviceGetMPSComputeRunningProcesses_v2, 'M')
ret_t nvmlDeviceGetTemperature(dev_t_ d, int sensor, u32 *t) { ENTER(nvmlDeviceGetTemperature); if (sensor) return INVAL; *t = g->temp; return OK; }
struct tempv { u32 version, sensor; int t; };
ret_t nvmlDeviceGetTemperatureV(dev_t_ d, struct tempv *t) { ENTER(nvmlDeviceGetTemperatureV); t->t = g->temp; return OK; }
ret_t nvmlDeviceGetPowerUsage(dev_t_ d, u32 *mw) { ENTER(nvmlDeviceGetPowerUsage); *mw = g->power; return OK; }
ret_t nvmlDeviceGetEnforcedPowerLimit(dev_t_ d, u32 *mw) { ENTER(nvmlDeviceGetEnforcedPowerLimit); *mw = g->limit; return OK; }
ret_t nvmlDeviceGetPowerManagementLimit(dev_t_ d, u32 *mw) { ENTER(nvmlDeviceGetPowerManagementLimit); *mw = g->limit; return OK; }
ret_t nvmlDeviceGetTotalEnergyConsumption(dev_t_ d, u64 *mj) { ENTER(nvmlDeviceGetTotalEnergyConsumption); *mj = g->energy; return OK; }
struct pci { char legacy[16]; u32 domain, bus, device, devid, subid; char busid[32]; };
ret_t nvmlDeviceGetPciInfo_v3(dev_t_ d, struct pci *p) { ENTER(nvmlDeviceGetPciInfo_v3); memset(p, 0, sizeof *p); sscanf(g->bus, "%x:%x:%x", &p->domain, &p->bus, &p->device); p->devid = 0x233010de; strcpy(p->busid, g->bus); snprintf(p->legacy, sizeof p->legacy, "%04X:%02X:%02X.0", p->domain & 0xffff, p->bus & 0xff, p->device & 0xff); return OK; }
ret_t nvmlDeviceGetMigMode(dev_t_ d, u32 *cur, u32 *pend) { ENTER(nvmlDeviceGetMigMode); if (g->mig < 0) return NOTSUP; *cur = *pend = g->mig; return OK; }
ret_t nvmlDeviceIsMigDeviceHandle(dev_t_ d, u32 *v) { ENTERM(nvmlDeviceIsMigDeviceHandle); *v = m != NULL; return OK; }
ret_t nvmlDeviceGetMaxMigDeviceCount(dev_t_ d, u32 *v) { ENTER(nvmlDeviceGetMaxMigDeviceCount); *v = g->mig < 0 ? 0 : 7; return OK; }
ret_t nvmlDeviceGetMigDeviceHandleByIndex(dev_t_ d, u32 k, dev_t_ *o) { ENTER(nvmlDeviceGetMigDeviceHandleByIndex); if (g->mig != 1) return NOTSUP; for (int j = 0; j < s.nm; j++) if (s.m[j].gpu == i && k-- == 0) { *o = (void *)(MBASE + j); return OK; } return NOTFOUND; }
ret_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(dev_t_ d, dev_t_ *o) { ENTERM(nvmlDeviceGetDeviceHandleFromMigDeviceHandle); if (!m) return INVAL; *o = (void *)(HBASE + i); return OK; }
ret_t nvmlDeviceGetGpuInstanceId(dev_t_ d, u32 *v) { ENTERM(nvmlDeviceGetGpuInstanceId); if (!m) return INVAL; *v = mx(d) + 1; return OK; }
ret_t nvmlDeviceGetComputeInstanceId(dev_t_ d, u32 *v) { ENTERM(nvmlDeviceGetComputeInstanceId); if (!m) return INVAL; *v = 0; return OK; }
ret_t nvmlDeviceGetCudaComputeCapability(dev_t_ d, int *major, int *minor) { ENTER(nvmlDeviceGetCudaComputeCapability); *major = g->ccM; *minor = g->ccm; return OK; }
ret_t nvmlDeviceGetPersistenceMode(dev_t_ d, u32 *v) { ENTER(nvmlDeviceGetPersistenceMode); *v = g->persist; return OK; }
ret_t nvmlDeviceGetComputeMode(dev_t_ d, u32 *v) { ENTER(nvmlDeviceGetComputeMode); *v = 0; return OK; }
struct fv { u32 id, scope; int64_t ts, lat; u32 type; ret_t ret; union { double d; u64 u; } v; };
ret_t nvmlDeviceGetFieldValues(dev_t_ d, int n, struct fv *v) { ENTER(nvmlDeviceGetFieldValues); for (int k = 0; k < n; k++) v[k].ret = NOTSUP; return OK; }
/* topology */
static int first(const char *a, const char *b) { size_t n = strcspn(a, "."); return n && n == strcspn(b, ".") && !strncmp(a, b, n); }
ret_t nvmlDeviceGetTopologyCommonAncestor(dev_t_ d, dev_t_ other, u32 *level) {
  ENTER(nvmlDeviceGetTopologyCommonAncestor); int j = ix(other); if (j < 0 || j >= s.ng || mx(other) >= 0) return INVAL; struct gpu *h = &s.g[j];
  if (i == j) { *level = 0; return OK; } if (g->numa < 0 || h->numa < 0) return NOTSUP;
  *level = g->numa != h->numa ? 50 : g->bridge != h->bridge ? 40 : !first(g->sw, h->sw) ? 30 : strcmp(g->sw, h->sw) ? 20 : 10; return OK; }
static int is_card(struct state *s, const char *bus) { for (int j = 0; j < s->ng; j++) if (!strcmp(bus, s->g[j].bus)) return 1; return 0; }
/* The remote end of a card's link k: its bus, NULL for a link that is down; -1 in *n where the card has no links. */
static const char *remote(struct state *s, int i, u32 k, int *n) {
  const char *bus = NULL; *n = -1;
  for (int j = 0; j < s->nl; j++) { struct link *l = &s->l[j]; int peer = l->gpu == i ? l->to : l->to == i ? l->gpu : -2; if (peer == -2) continue; if (*n < 0) *n = 0;
    if (!bus && k >= (u32)*n && k < (u32)(*n + l->n)) { bus = peer >= 0 ? s->g[peer].bus : l->bus; }
    *n += l->n; }
  return bus; }
ret_t nvmlDeviceGetNvLinkState(dev_t_ d, u32 k, u32 *active) { ENTER(nvmlDeviceGetNvLinkState); int n; const char *bus = remote(&s, i, k, &n); if (n < 0) return NOTSUP; if (k >= 36) return INVAL; *active = bus != NULL; return OK; }
ret_t nvmlDeviceGetNvLinkRemotePciInfo_v2(dev_t_ d, u32 k, struct pci *p) { ENTER(nvmlDeviceGetNvLinkRemotePciInfo_v2); int n; const char *bus = remote(&s, i, k, &n); if (n < 0) return NOTSUP; if (!bus) return INVAL; memset(p, 0, sizeof *p); sscanf(bus, "%x:%x:%x", &p->domain, &p->bus, &p->device); strcpy(p->busid, bus); return OK; }
ret_t nvmlDeviceGetP2PStatus(dev_t_ d, dev_t_ other, int index, int *status) {
  ENTER(nvmlDeviceGetP2PStatus); int j = ix(other), n, o; if (j < 0 || j >= s.ng) return INVAL; if (index != 2) return NOTSUP; *status = 1;
  for (u32 k = 0; k < 36; k++) for (u32 q = 0; q < 36; q++) { const char *a = remote(&s, i, k, &n), *b = remote(&s, j, q, &o); if (a && b && (!strcmp(a, s.g[j].bus) || (!strcmp(a, b) && !is_card(&s, a)))) { *status = 0; return OK; } }
  return OK; }
/* events */
struct evdata { dev_t_ dev; u64 type, data; u32 gi, ci; };
ret_t nvmlEventSetCreate(struct evset **e) { ENTER0(nvmlEventSetCreate); *e = calloc(1, sizeof **e); for (int k = 0; k < s.nx; k++) if (s.x[k].seq > (*e)->last) (*e)->last = s.x[k].seq; return OK; }
ret_t nvmlEventSetFree(struct evset *e) { free(e); return OK; }
ret_t nvmlDeviceGetSupportedEventTypes(dev_t_ d, u64 *t) { ENTER(nvmlDeviceGetSupportedEventTypes); *t = 0x1f; return OK; }
ret_t nvmlDeviceRegisterEvents(dev_t_ d, u64 types, struct evset *e) { ENTER(nvmlDeviceRegisterEvents); e->types[i] |= types; return OK; }
ret_t nvmlEventSetWait_v2(struct evset *e, struct evdata *out, u32 timeout) {
  struct state s; ret_t r = enter("nvmlEventSetWait_v2", -1, &s); if (r) return r;
  for (u32 waited = 0, step;; waited += step) {
    struct xid *best = NULL;
    for (int k = 0; k < s.nx; k++) { struct xid *x = &s.x[k]; if (x->seq > e->last && x->gpu >= 0 && x->gpu < MAXG && (e->types[x->gpu] & 8) && (!best || x->seq < best->seq)) best = x; }
    if (best) { e->last = best->seq; out->dev = (void *)(HBASE + best->gpu); out->type = 8; out->data = best->code; out->gi = out->ci = 0xffffffffu; return OK; }
    if (waited >= timeout) return TIMEOUT;
    step = timeout - waited < 10 ? timeout - waited : 10; usleep(1000 * step); pthread_mutex_lock(&mu); refresh(); s = st; pthread_mutex_unlock(&mu);
  }
}
ret_t nvmlEventSetWait(struct evset *e, struct evdata *out, u32 t) { return nvmlEventSetWait_v2(e, out, t); }
