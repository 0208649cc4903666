/* Preloaded into the program: notes the calls that change files, and makes one of them fail.

   FAULT_LOG    a file; each call on a path that has FAULT_PATH in it is a line: name, errno or 0, path, second path; tabs
   FAULT_PATH   part of an absolute path
   FAULT_CALL   open, write, fsync, rename, close, link, unlink, mkdir, or any
   FAULT_NTH    which of these calls on such paths, from 1
   FAULT_WITH   an errno; or `kill`: the process dies before the call; `torn`: after half of a write; `short`: half of a
                write is all that is done, which is no fault

   Calls go to the kernel directly, so there is nothing to look up. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int calls;

/* The path as the kernel would find it, without looking at links. */
static const char *absolute(const char *path, char *out) {
    char here[PATH_MAX];
    if (path[0] == '/' || syscall(SYS_getcwd, here, sizeof here) < 0)
        snprintf(out, PATH_MAX, "%s", path);
    else
        snprintf(out, PATH_MAX, "%.2000s/%.2000s", here, path);
    return out;
}

static const char *opened(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    out[n < 0 ? 0 : n] = 0;
    return out;
}

static int watched(const char *path) {
    const char *part = getenv("FAULT_PATH");
    return part && strstr(path, part);
}

/* What to do with this call: 0, an errno, or one of these. */
enum { TORN = -1, SHORT = -2 };

static int fault(const char *call, const char *path) {
    const char *which = getenv("FAULT_CALL"), *nth = getenv("FAULT_NTH"), *with = getenv("FAULT_WITH");
    if (!which || !nth || !with || !watched(path)) return 0;
    if (strcmp(which, "any") && strcmp(which, call)) return 0;
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) != atoi(nth)) return 0;
    if (!strcmp(with, "torn")) return TORN;
    if (!strcmp(with, "short")) return SHORT;
    if (!strcmp(with, "kill")) syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    return atoi(with);
}

static long note(const char *call, long done, const char *path, const char *second) {
    const char *log = getenv("FAULT_LOG");
    int error = errno;
    if (log && (watched(path) || watched(second))) {
        char line[2 * PATH_MAX + 64];
        int n = snprintf(line, sizeof line, "%s\t%d\t%s\t%s\n", call, done < 0 ? error : 0, path, second);
        long fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (syscall(SYS_write, fd, line, n) != n) abort();
        syscall(SYS_close, fd);
    }
    errno = error;
    return done;
}

static int refuse(int error) {
    errno = error;
    return -1;
}

static int open_at(int dir, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    absolute(path, full);
    int error = fault("open", full);
    long fd = error ? refuse(error) : syscall(SYS_openat, dir, path, flags, mode);
    return note(flags & O_TRUNC ? "truncate" : "open", fd, full, "");
}

#define MODE                                      \
    mode_t mode = 0;                              \
    if (flags & (O_CREAT | O_TMPFILE)) {          \
        va_list rest;                             \
        va_start(rest, flags);                    \
        mode = va_arg(rest, mode_t);              \
        va_end(rest);                             \
    }
int open(const char *path, int flags, ...) { MODE return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE return open_at(dir, path, flags, mode); }

ssize_t write(int fd, const void *from, size_t n) {
    char path[PATH_MAX];
    int error = fault("write", opened(fd, path));
    if (error > 0) return note("write", refuse(error), path, "");
    long done = syscall(SYS_write, fd, from, error && n > 1 ? n / 2 : n);
    if (error == TORN) syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    return note("write", done, path, "");
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    /* One part is a legal answer. */
    return n > 0 ? write(fd, parts[0].iov_base, parts[0].iov_len) : 0;
}

static int sync_by(long number, int fd) {
    char path[PATH_MAX];
    int error = fault("fsync", opened(fd, path));
    return note("fsync", error ? refuse(error) : syscall(number, fd), path, "");
}
int fsync(int fd) { return sync_by(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_by(SYS_fdatasync, fd); }

int close(int fd) {
    char path[PATH_MAX];
    int error = fault("close", opened(fd, path));
    /* Whatever close answers, the descriptor is gone. */
    long done = syscall(SYS_close, fd);
    return note("close", error ? refuse(error) : done, path, "");
}

static int name_by(const char *call, int from_dir, const char *from, int to_dir, const char *to, int flags) {
    char first[PATH_MAX], second[PATH_MAX];
    absolute(from, first);
    int error = fault(call, absolute(to, second));
    long number = strcmp(call, "rename") ? SYS_linkat : SYS_renameat2;
    return note(call, error ? refuse(error) : syscall(number, from_dir, from, to_dir, to, flags), first, second);
}
int rename(const char *from, const char *to) { return name_by("rename", AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return name_by("rename", a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return name_by("rename", a, from, b, to, flags); }
int link(const char *from, const char *to) { return name_by("link", AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int a, const char *from, int b, const char *to, int flags) { return name_by("link", a, from, b, to, flags); }

static int path_by(const char *call, long number, const char *path, int last) {
    char full[PATH_MAX];
    int error = fault(call, absolute(path, full));
    return note(call, error ? refuse(error) : syscall(number, AT_FDCWD, path, last), full, "");
}
int unlink(const char *path) { return path_by("unlink", SYS_unlinkat, path, 0); }
int mkdir(const char *path, mode_t mode) { return path_by("mkdir", SYS_mkdirat, path, mode); }
