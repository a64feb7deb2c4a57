/* Preloaded into a program: writes down, in order, all that it does to the files below one folder, with the data.

   RECORDER_ROOT   the folder, absolute and without links
   RECORDER_LOG    the file to append the records to (outside that folder); see recording.py for their shape
   RECORDER_KILL   n: the program is killed when it asks for the n-th fsync there, before anything comes of it

   A call and its record are one step for all threads. Calls that failed are left out. What a program can do to a file in
   other ways (a shared mapping, copy_file_range, stdio) is not seen: the tests compare the replayed folder with the real
   one, which shows that nothing was missed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096
struct record { char op; int32_t file; int64_t at, size; uint32_t name, data; } __attribute__((packed));

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int log_file = -1;
static long fsyncs, kill_at;
static char seen[FILES]; /* descriptors of files and folders below the root */

#define REAL(name, result, ...) \
  static result (*next)(__VA_ARGS__); \
  if (!next) next = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void put(char op, int file, int64_t at, int64_t size, const char *name, const void *data, size_t length) {
  REAL("writev", ssize_t, int, const struct iovec *, int);
  struct record head = {op, file, at, size, name ? strlen(name) : 0, length};
  struct iovec parts[3] = {{&head, sizeof head}, {(void *)name, head.name}, {(void *)data, length}};
  if (next(log_file, parts, 3) != (ssize_t)(sizeof head + head.name + length)) abort();
}

static int below(const char *path) {
  return log_file >= 0 && !strncmp(path, root, root_length) && (!path[root_length] || path[root_length] == '/');
}

static void number_path(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, PATH_MAX - 1);
  path[n < 0 ? 0 : n] = 0;
}

/* The path as an absolute one. */
static void whole(int folder, const char *given, char *path) {
  if (given[0] == '/') { snprintf(path, PATH_MAX, "%s", given); return; }
  char start[PATH_MAX];
  if (folder == AT_FDCWD) { if (!getcwd(start, sizeof start)) start[0] = 0; }
  else number_path(folder, start);
  if (snprintf(path, PATH_MAX, "%s/%s", start, given) >= PATH_MAX) path[0] = 0;
}

static int is_seen(int fd) { return fd >= 0 && fd < FILES && seen[fd]; }

__attribute__((constructor)) static void begin(void) {
  const char *folder = getenv("RECORDER_ROOT"), *log = getenv("RECORDER_LOG"), *kill = getenv("RECORDER_KILL");
  if (!folder || !log) return;
  snprintf(root, sizeof root, "%s", folder);
  root_length = strlen(root);
  kill_at = kill ? atol(kill) : 0;
  int number = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (number < 0) abort();
  log_file = number;
  put('S', -1, 0, 0, NULL, NULL, 0);
}

#define LOCKED(work) pthread_mutex_lock(&mu); work; int kept = errno; pthread_mutex_unlock(&mu); errno = kept

/* -- names ------------------------------------------------------------------------------------------------------ */

static int opened(int fd, int flags) {
  if (fd < 0 || fd >= FILES || log_file < 0) return fd;
  char path[PATH_MAX];
  number_path(fd, path);
  seen[fd] = below(path);
  if (seen[fd]) put('O', fd, flags, 0, path + root_length, NULL, 0);
  return fd;
}

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(#name, int, const char *, int, ...); \
    MODE(flags) LOCKED(int fd = opened(next(path, flags, mode), flags)); \
    return fd; \
  }
#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    REAL(#name, int, int, const char *, int, ...); \
    MODE(flags) LOCKED(int fd = opened(next(folder, path, flags, mode), flags)); \
    return fd; \
  }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

#define CREAT(name) int name(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
CREAT(creat) CREAT(creat64)
/* What a program calls that was compiled with _FORTIFY_SOURCE. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }

int close(int fd) {
  REAL("close", int, int);
  if (fd >= 0 && fd == log_file) { errno = EBADF; return -1; }
  LOCKED(if (fd >= 0 && fd < FILES) seen[fd] = 0; int result = next(fd));
  return result;
}

static void named(int result, char op, int folder, const char *from, int other, const char *to) {
  char path[PATH_MAX], second[PATH_MAX];
  if (result < 0) return;
  whole(folder, from, path);
  if (!to) { if (below(path)) put(op, -1, 0, 0, path + root_length, NULL, 0); return; }
  whole(other, to, second);
  if (below(path) != below(second)) abort(); /* moved in or out: no test does that */
  if (below(path)) put(op, -1, 0, 0, path + root_length, second + root_length, strlen(second) - root_length);
}

int unlink(const char *path) {
  REAL("unlink", int, const char *);
  LOCKED(int result = next(path); named(result, 'U', AT_FDCWD, path, 0, NULL));
  return result;
}
int unlinkat(int folder, const char *path, int flags) {
  REAL("unlinkat", int, int, const char *, int);
  LOCKED(int result = next(folder, path, flags); named(result, 'U', folder, path, 0, NULL));
  return result;
}
int mkdir(const char *path, mode_t mode) {
  REAL("mkdir", int, const char *, mode_t);
  LOCKED(int result = next(path, mode); named(result, 'M', AT_FDCWD, path, 0, NULL));
  return result;
}
int rename(const char *from, const char *to) {
  REAL("rename", int, const char *, const char *);
  LOCKED(int result = next(from, to); named(result, 'R', AT_FDCWD, from, AT_FDCWD, to));
  return result;
}
int renameat(int folder, const char *from, int other, const char *to) {
  REAL("renameat", int, int, const char *, int, const char *);
  LOCKED(int result = next(folder, from, other, to); named(result, 'R', folder, from, other, to));
  return result;
}

/* -- contents --------------------------------------------------------------------------------------------------- */

#define PWRITE(name, offset) \
  ssize_t name(int fd, const void *data, size_t size, offset at) { \
    REAL(#name, ssize_t, int, const void *, size_t, offset); \
    LOCKED(ssize_t n = next(fd, data, size, at); if (n > 0 && is_seen(fd)) put('W', fd, at, 0, NULL, data, n)); \
    return n; \
  }
PWRITE(pwrite, off_t) PWRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t size) {
  REAL("write", ssize_t, int, const void *, size_t);
  if (!is_seen(fd)) return next(fd, data, size); /* a pipe may block: it must not keep the others waiting */
  LOCKED(ssize_t n = next(fd, data, size); if (n > 0) put('W', fd, lseek(fd, 0, SEEK_CUR) - n, 0, NULL, data, n));
  return n;
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL("writev", ssize_t, int, const struct iovec *, int);
  if (!is_seen(fd)) return next(fd, parts, count);
  ssize_t total = 0;
  for (int i = 0; i < count; i++) { /* one by one: a writev may be torn between its parts too */
    ssize_t n = write(fd, parts[i].iov_base, parts[i].iov_len);
    if (n < 0) return total ? total : n;
    total += n;
    if ((size_t)n < parts[i].iov_len) break;
  }
  return total;
}

#define TRUNCATE(name, offset) \
  int name(int fd, offset size) { \
    REAL(#name, int, int, offset); \
    LOCKED(int result = next(fd, size); if (!result && is_seen(fd)) put('T', fd, 0, size, NULL, NULL, 0)); \
    return result; \
  }
TRUNCATE(ftruncate, off_t) TRUNCATE(ftruncate64, off64_t)

#define ALLOCATE(name, offset) \
  int name(int fd, offset at, offset size) { \
    REAL(#name, int, int, offset, offset); \
    LOCKED(int result = next(fd, at, size); if (!result && is_seen(fd)) put('A', fd, at, size, NULL, NULL, 0)); \
    return result; \
  }
ALLOCATE(posix_fallocate, off_t) ALLOCATE(posix_fallocate64, off64_t)

#define FALLOCATE(name, offset) \
  int name(int fd, int mode, offset at, offset size) { \
    REAL(#name, int, int, int, offset, offset); \
    LOCKED(int result = next(fd, mode, at, size); if (!result && is_seen(fd) && !mode) put('A', fd, at, size, NULL, NULL, 0)); \
    return result; \
  }
FALLOCATE(fallocate, off_t) FALLOCATE(fallocate64, off64_t)

#define FSYNC(name) \
  int name(int fd) { \
    REAL(#name, int, int); \
    if (!is_seen(fd)) return next(fd); \
    LOCKED(if (++fsyncs == kill_at) kill(getpid(), SIGKILL); int result = next(fd); \
           if (!result) put('F', fd, 0, 0, NULL, NULL, 0)); \
    return result; \
  }
FSYNC(fsync) FSYNC(fdatasync)
