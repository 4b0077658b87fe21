/* Goes before the C library's calls that change files, by LD_PRELOAD, and asks Python what shall become of each.
 *
 * `watch` names a folder and a function. Before every call that changes something below that folder, from whatever
 * thread or library (Python's own, HDF5's), the function is given the call's name, the path and how many bytes it
 * writes; its answer is GO_ON, an errno to fail with, or one of the negative answers below. tests/faults/intercept.py is
 * the other side.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { GO_ON = 0, HALF = -1, HALF_AND_KILL = -2, KILL_AFTER = -3 };
typedef int (*decide_t)(const char *call, const char *path, long bytes);

static decide_t decide;
static char folder[PATH_MAX];
static __thread int asking;

void watch(const char *below, decide_t with) {
    strncpy(folder, below, sizeof folder - 1);
    decide = with;
}

static int die(int result) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
    return result;
}

static int ask(const char *call, const char *path, long bytes) {
    size_t length = strlen(folder);
    if (!decide || asking || strncmp(path, folder, length) || (path[length] && path[length] != '/')) return GO_ON;
    int before = errno;
    asking = 1;
    int answer = decide(call, path, bytes);
    asking = 0;
    errno = before;
    return answer;
}

static void place(int handle, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    out[length < 0 ? 0 : length] = 0;
}

static int of_handle(const char *call, int handle, long bytes) {
    char path[PATH_MAX];
    if (!decide || asking) return GO_ON;
    place(handle, path);
    return ask(call, path, bytes);
}

static int of_path(const char *call, int base, const char *name) {
    char path[2 * PATH_MAX] = "";
    if (!decide || asking || !name) return GO_ON;
    if (name[0] != '/') {
        if (base != AT_FDCWD) place(base, path);
        else if (!getcwd(path, PATH_MAX)) return GO_ON;
        strcat(path, "/");
    }
    strncat(path, name, PATH_MAX);
    return ask(call, path, 0);
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = dlsym(RTLD_NEXT, #name)
#define ANSWERED(how, call)                                                                                           \
    int answer = how;                                                                                                 \
    if (answer > 0) { errno = answer; return -1; }                                                                    \
    int done = call;                                                                                                  \
    return answer == KILL_AFTER ? die(done) : done

#define OPEN(name, TAKES, base, GIVES)                                                                                \
    int name TAKES {                                                                                                  \
        mode_t mode = 0;                                                                                              \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); } \
        NEXT(name);                                                                                                   \
        if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) return next GIVES;                                    \
        ANSWERED(of_path(flags & O_CREAT ? "create" : "open", base, path), next GIVES);                               \
    }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), at, (at, path, flags, mode))

#define WRITE(name, TAKES, GIVES)                                                                                     \
    ssize_t name TAKES {                                                                                              \
        NEXT(name);                                                                                                   \
        int answer = of_handle("write", handle, (long)size);                                                          \
        if (answer > 0) { errno = answer; return -1; }                                                                \
        if (answer == HALF || answer == HALF_AND_KILL) size = size / 2 ? size / 2 : size;                             \
        ssize_t done = next GIVES;                                                                                    \
        return answer == KILL_AFTER || answer == HALF_AND_KILL ? die(0) : done;                                       \
    }
WRITE(write, (int handle, const void *from, size_t size), (handle, from, size))
WRITE(pwrite, (int handle, const void *from, size_t size, off_t at), (handle, from, size, at))
WRITE(pwrite64, (int handle, const void *from, size_t size, off64_t at), (handle, from, size, at))
WRITE(sendfile, (int handle, int from, off_t *at, size_t size), (handle, from, at, size))
WRITE(sendfile64, (int handle, int from, off64_t *at, size_t size), (handle, from, at, size))

#define CALL(name, call, TAKES, how, GIVES)                                                                           \
    int name TAKES { NEXT(name); ANSWERED(how, next GIVES); }
#define OF_HANDLE(name, call, TAKES, GIVES) CALL(name, call, TAKES, of_handle(call, handle, 0), GIVES)
#define OF_PATH(name, call, TAKES, base, path, GIVES) CALL(name, call, TAKES, of_path(call, base, path), GIVES)
OF_HANDLE(fsync, "sync", (int handle), (handle))
OF_HANDLE(fdatasync, "sync", (int handle), (handle))
OF_HANDLE(ftruncate, "truncate", (int handle, off_t size), (handle, size))
OF_HANDLE(ftruncate64, "truncate", (int handle, off64_t size), (handle, size))
OF_PATH(rename, "rename", (const char *from, const char *to), AT_FDCWD, to, (from, to))
OF_PATH(renameat, "rename", (int a, const char *from, int b, const char *to), b, to, (a, from, b, to))
OF_PATH(link, "link", (const char *from, const char *to), AT_FDCWD, to, (from, to))
OF_PATH(linkat, "link", (int a, const char *from, int b, const char *to, int flags), b, to, (a, from, b, to, flags))
OF_PATH(symlink, "link", (const char *from, const char *to), AT_FDCWD, to, (from, to))
OF_PATH(mkdir, "mkdir", (const char *path, mode_t mode), AT_FDCWD, path, (path, mode))
OF_PATH(mkdirat, "mkdir", (int at, const char *path, mode_t mode), at, path, (at, path, mode))
OF_PATH(unlink, "remove", (const char *path), AT_FDCWD, path, (path))
OF_PATH(unlinkat, "remove", (int at, const char *path, int flags), at, path, (at, path, flags))
OF_PATH(rmdir, "remove", (const char *path), AT_FDCWD, path, (path))
OF_PATH(utimensat, "touch", (int at, const char *path, const struct timespec times[2], int flags), at, path,
        (at, path, times, flags))
OF_PATH(utimes, "touch", (const char *path, const struct timeval times[2]), AT_FDCWD, path, (path, times))

/* posix_fallocate returns its error and leaves errno alone. */
#define RESERVE(name, kind)                                                                                           \
    int name(int handle, kind from, kind size) {                                                                      \
        NEXT(name);                                                                                                   \
        int answer = of_handle("reserve", handle, (long)size);                                                        \
        if (answer > 0) return answer;                                                                                \
        int done = next(handle, from, size);                                                                          \
        return answer == KILL_AFTER ? die(done) : done;                                                               \
    }
RESERVE(posix_fallocate, off_t)
RESERVE(posix_fallocate64, off64_t)
