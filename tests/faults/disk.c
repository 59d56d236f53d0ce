/* Loaded before libc (LD_PRELOAD): lets the file system under one folder fail, or be slow, at a chosen moment.

   A moment is a call that makes, writes, syncs, cuts or renames something there; they are counted from 1. Nothing
   happens before disk_fails() or disk_is_slow() is called in this very process; programs that it starts are left alone.
   To cut a file needs no space: only EIO lets that fail. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static char folder[PATH_MAX], kinds[1 << 16];
static long moment, failing, lasting;
static int error, shortens, slow_us, marks = -1;

/* Fail the moment `at` with an errno, and so many more after it (-1: all). With `half`, a write at that moment first
   takes half of its bytes and the moments after it fail. */
void disk_fails(const char *where, long at, long more, int with, int half) {
    snprintf(folder, sizeof folder, "%s", where);
    moment = 0, failing = at, lasting = more, error = with, shortens = half;
}

/* Pause in the middle of each write; say "(" before the pause and ")" when all bytes are written. */
void disk_is_slow(const char *where, int microseconds, int descriptor) {
    snprintf(folder, sizeof folder, "%s", where);
    slow_us = microseconds, marks = descriptor;
}

/* One letter for each moment so far: o(pen), w(rite), s(ync), c(ut), r(ename), m(kdir). */
const char *disk_moments(void) { return kinds; }

static int inside(const char *path) {
    size_t length = strlen(folder);
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int descriptor_inside(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!*folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

static int path_inside(const char *path) {
    char full[PATH_MAX * 2];
    if (!*folder) return 0;
    if (*path == '/') return inside(path);
    if (!getcwd(full, PATH_MAX)) return 0;
    strcat(full, "/"), strncat(full, path, PATH_MAX - 1);
    return inside(full);
}

static int fails(char kind) {
    if (moment < (long)sizeof kinds - 1) kinds[moment] = kind;
    moment++;
    if (!failing || moment < failing || (lasting >= 0 && moment > failing + lasting)) return 0;
    errno = error;
    return 1;
}

static ssize_t slowly(int descriptor, const void *bytes, size_t size) {
    __typeof__(&write) real = REAL(write);
    ssize_t half = real(descriptor, bytes, size / 2);
    if (half < 0) return half;
    real(marks, "(", 1);
    usleep(slow_us);
    ssize_t rest = real(descriptor, (const char *)bytes + half, size - half);
    real(marks, ")", 1);
    return rest < 0 ? half : half + rest;
}

ssize_t write(int descriptor, const void *bytes, size_t size) {
    __typeof__(&write) real = REAL(write);
    if (descriptor == marks || !descriptor_inside(descriptor)) return real(descriptor, bytes, size);
    if (shortens && moment + 1 == failing && size > 1) {
        kinds[moment++] = 'w';
        return real(descriptor, bytes, size / 2);
    }
    if (fails('w')) return -1;
    return slow_us && size > 1 ? slowly(descriptor, bytes, size) : real(descriptor, bytes, size);
}

#define DESCRIPTOR(kind, type, name, parameters, arguments)                                \
    type name parameters {                                                                 \
        return descriptor_inside(descriptor) && fails(kind) ? -1 : REAL(name) arguments;   \
    }

DESCRIPTOR('w', ssize_t, pwrite, (int descriptor, const void *bytes, size_t size, off_t at), (descriptor, bytes, size, at))
DESCRIPTOR('w', ssize_t, pwrite64, (int descriptor, const void *bytes, size_t size, off64_t at), (descriptor, bytes, size, at))
DESCRIPTOR('s', int, fsync, (int descriptor), (descriptor))
DESCRIPTOR('s', int, fdatasync, (int descriptor), (descriptor))

#define CUT(name, type)                                                                                        \
    int name(int descriptor, type size) {                                                                      \
        return error != ENOSPC && descriptor_inside(descriptor) && fails('c') ? -1 : REAL(name)(descriptor, size); \
    }

CUT(ftruncate, off_t)
CUT(ftruncate64, off64_t)

#define PATH(kind, name, parameters, arguments)                                 \
    int name parameters {                                                       \
        return path_inside(path) && fails(kind) ? -1 : REAL(name) arguments;    \
    }

PATH('r', rename, (const char *from, const char *path), (from, path))
PATH('r', renameat, (int from_folder, const char *from, int to, const char *path), (from_folder, from, to, path))
PATH('m', mkdir, (const char *path, mode_t mode), (path, mode))
PATH('m', mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))

#define MAKES (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))
#define OPEN(name, parameters, arguments)                                   \
    int name parameters {                                                   \
        mode_t mode = 0;                                                    \
        if (flags & MAKES) {                                                \
            va_list more;                                                   \
            va_start(more, flags);                                          \
            mode = va_arg(more, mode_t);                                    \
            va_end(more);                                                   \
            if (path_inside(path) && fails('o')) return -1;                  \
        }                                                                   \
        return REAL(name) arguments;                                        \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))
