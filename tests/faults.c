/* Makes one system call that writes a file fail, once. A program loads this library by LD_PRELOAD.

   Only calls on files in the folder FAULT_ROOT count. Paths below are relative to that folder.

   FAULT_TRACE   a file: each call is appended as a line "CALL PATH"
   FAULT_CALL    the call that fails: open (for writing), write, fsync, close, truncate, rename, link, mkdir, remove
   FAULT_FILE    a pattern of the file's path, as of fnmatch
   FAULT_NUMBER  the number of the call among those of this name and pattern in the process, from 1
   FAULT_ERRNO   the error */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_int calls; /* that FAULT_CALL and FAULT_FILE name, so far; a forked process begins where its parent was */

/* Writes the path of an open file. Returns whether there is one; a socket has none. */
static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[size > 0 ? size : 0] = 0;
    return path[0] == '/';
}

/* Notes a call on a path. Returns whether it has to fail, with errno set. */
static int fails(const char *call, int folder, const char *name) {
    const char *root = getenv("FAULT_ROOT"), *trace = getenv("FAULT_TRACE"), *failing = getenv("FAULT_CALL");
    char path[2 * PATH_MAX + 2] = "";
    if (!root || !name) return 0;
    if (name[0] != '/') {
        if (folder == AT_FDCWD ? !getcwd(path, PATH_MAX) : !path_of(folder, path)) return 0;
        strcat(path, "/");
    }
    strncat(path, name, PATH_MAX);
    size_t length = strlen(root);
    if (strncmp(path, root, length) || path[length] != '/') return 0;
    const char *file = path + length + 1;
    if (trace) {
        char line[2 * PATH_MAX + 32];
        int size = snprintf(line, sizeof line, "%s %s\n", call, file);
        long into = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_APPEND | O_CREAT, 0600);
        syscall(SYS_write, into, line, size);
        syscall(SYS_close, into);
    }
    if (!failing || strcmp(failing, call) || fnmatch(getenv("FAULT_FILE"), file, 0)) return 0;
    if (atomic_fetch_add(&calls, 1) + 1 != atoi(getenv("FAULT_NUMBER"))) return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

static int fails_open(const char *call, int descriptor) {
    char path[PATH_MAX];
    int before = errno, mode = fcntl(descriptor, F_GETFL);
    int found = mode != -1 && (mode & O_ACCMODE) != O_RDONLY && path_of(descriptor, path);
    errno = before;
    return found && fails(call, AT_FDCWD, path);
}

#define FAILS_TO_OPEN(folder, name, flags) \
    (((flags) & O_ACCMODE) != O_RDONLY && fails("open", folder, name))

static mode_t mode_in(int flags, va_list more) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; }

#define OPEN(function)                                                     \
    int function(const char *name, int flags, ...) {                       \
        va_list more;                                                      \
        va_start(more, flags);                                             \
        mode_t mode = mode_in(flags, more);                                \
        va_end(more);                                                      \
        return FAILS_TO_OPEN(AT_FDCWD, name, flags) ? -1 : NEXT(function)(name, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(function)                                                   \
    int function(int folder, const char *name, int flags, ...) {           \
        va_list more;                                                      \
        va_start(more, flags);                                             \
        mode_t mode = mode_in(flags, more);                                \
        va_end(more);                                                      \
        return FAILS_TO_OPEN(folder, name, flags) ? -1 : NEXT(function)(folder, name, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

/* A function of an open file: its type, its parameters, and what it is called with. */
#define ON_FILE(call, type, function, parameters, arguments) \
    type function parameters { return fails_open(call, file) ? -1 : NEXT(function) arguments; }
ON_FILE("write", ssize_t, write, (int file, const void *from, size_t size), (file, from, size))
ON_FILE("write", ssize_t, pwrite, (int file, const void *from, size_t size, off_t at), (file, from, size, at))
ON_FILE("write", ssize_t, pwrite64, (int file, const void *from, size_t size, off64_t at), (file, from, size, at))
ON_FILE("write", ssize_t, writev, (int file, const struct iovec *from, int count), (file, from, count))
ON_FILE("write", ssize_t, pwritev, (int file, const struct iovec *from, int count, off_t at), (file, from, count, at))
ON_FILE("write", ssize_t, pwritev64, (int file, const struct iovec *from, int count, off64_t at), (file, from, count, at))
ON_FILE("truncate", int, ftruncate, (int file, off_t size), (file, size))
ON_FILE("truncate", int, ftruncate64, (int file, off64_t size), (file, size))

/* Folders, open for reading, are flushed as well. */
static int fails_to_flush(int descriptor) {
    char path[PATH_MAX];
    return path_of(descriptor, path) && fails("fsync", AT_FDCWD, path);
}
int fsync(int file) { return fails_to_flush(file) ? -1 : NEXT(fsync)(file); }
int fdatasync(int file) { return fails_to_flush(file) ? -1 : NEXT(fdatasync)(file); }

/* As on a network file system, where an error of an earlier write may be told at the end. The file is closed. */
int close(int file) {
    if (!fails_open("close", file)) return NEXT(close)(file);
    int error = errno;
    NEXT(close)(file);
    errno = error;
    return -1;
}

/* A function of one or two names; the last name counts. */
#define ON_NAME(call, function, parameters, arguments, folder) \
    int function parameters { return fails(call, folder, name) ? -1 : NEXT(function) arguments; }
ON_NAME("rename", rename, (const char *from, const char *name), (from, name), AT_FDCWD)
ON_NAME("rename", renameat, (int of, const char *from, int to, const char *name), (of, from, to, name), to)
ON_NAME("rename", renameat2, (int of, const char *from, int to, const char *name, unsigned flags), (of, from, to, name, flags), to)
ON_NAME("link", link, (const char *from, const char *name), (from, name), AT_FDCWD)
ON_NAME("link", linkat, (int of, const char *from, int to, const char *name, int flags), (of, from, to, name, flags), to)
ON_NAME("mkdir", mkdir, (const char *name, mode_t mode), (name, mode), AT_FDCWD)
ON_NAME("mkdir", mkdirat, (int in, const char *name, mode_t mode), (in, name, mode), in)
ON_NAME("remove", unlink, (const char *name), (name), AT_FDCWD)
ON_NAME("remove", rmdir, (const char *name), (name), AT_FDCWD)
ON_NAME("remove", unlinkat, (int in, const char *name, int flags), (in, name, flags), in)
