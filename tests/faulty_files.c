/* A file system without locks, or without fsync, as some network and user-space file systems are. A program loads this
   library by LD_PRELOAD.

   LOCK_ERRNO   the error of every call that locks a file
   FSYNC_ERRNO  the error of every call that flushes a file */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int fails(const char *variable) {
    const char *error = getenv(variable);
    if (error) errno = atoi(error);
    return error != NULL;
}

static int locks(int command) {
    return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
}

#define FCNTL(name)                                                             \
    int name(int file, int command, ...) {                                      \
        va_list more;                                                           \
        va_start(more, command);                                                \
        void *argument = va_arg(more, void *);                                  \
        va_end(more);                                                           \
        if (locks(command) && fails("LOCK_ERRNO")) return -1;                   \
        return NEXT(name)(file, command, argument);                             \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

int flock(int file, int how) { return fails("LOCK_ERRNO") ? -1 : NEXT(flock)(file, how); }
int fsync(int file) { return fails("FSYNC_ERRNO") ? -1 : NEXT(fsync)(file); }
int fdatasync(int file) { return fails("FSYNC_ERRNO") ? -1 : NEXT(fdatasync)(file); }
