/* Preloaded into a server: steps its wall clock, and fills its disk, as set by
 * two numbers in the file that RINGLOCK_SHIM names. Monotonic clocks stay
 * unchanged. Nothing here allocates: the first calls come early. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct told {
  int64_t step_ms;
  int64_t disk_is_full;
};

static const struct told nothing;
static volatile const struct told *told = &nothing;

__attribute__((constructor)) static void open_told(void) {
  const char *path = getenv("RINGLOCK_SHIM");
  if (!path) return;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) _exit(97);
  void *map = mmap(0, sizeof(struct told), PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (map == MAP_FAILED) _exit(98);
  told = map;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
  int result = (int)syscall(SYS_clock_gettime, clock, out);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t step = told->step_ms;
    out->tv_sec += step / 1000;
    out->tv_nsec += step % 1000 * 1000000;
    if (out->tv_nsec >= 1000000000) {
      out->tv_nsec -= 1000000000;
      out->tv_sec += 1;
    }
  }
  return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
  (void)zone;
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  out->tv_sec = now.tv_sec;
  out->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}

static int is_refused(int fd) {
  struct stat stat;
  if (!told->disk_is_full || fstat(fd, &stat) || !S_ISREG(stat.st_mode)) return 0;
  errno = ENOSPC;
  return 1;
}

ssize_t write(int fd, const void *bytes, size_t count) {
  return is_refused(fd) ? -1 : syscall(SYS_write, fd, bytes, count);
}

int fsync(int fd) { return is_refused(fd) ? -1 : (int)syscall(SYS_fsync, fd); }

int fdatasync(int fd) {
  return is_refused(fd) ? -1 : (int)syscall(SYS_fdatasync, fd);
}
