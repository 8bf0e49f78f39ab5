/* Locks between processes: flock(2), and fcntl(2) of POSIX and of open file descriptions. */
#include "suite.h"

#include <sys/file.h>

static int open_it(void)
{
    int file;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    return file;
}

static int lock(int file, int command, short type, off_t start, off_t length)
{
    struct flock wanted = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};

    return fcntl(file, command, &wanted);
}

CASE("flock", "keeps others out, or only those who want it alone")
{
    int file = open_it();

    WORKS(flock(file, LOCK_EX));
    CHILD
        FAILS(flock(open_it(), LOCK_SH | LOCK_NB), EWOULDBLOCK);
    reap();
    WORKS(flock(file, LOCK_SH));
    CHILD {
        int other = open_it();

        WORKS(flock(other, LOCK_SH | LOCK_NB));
        FAILS(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    }
    reap();
    WORKS(flock(file, LOCK_UN));
    CHILD
        WORKS(flock(open_it(), LOCK_EX | LOCK_NB));
    reap();
}

CASE("flock", "is of the open file: a copy of the descriptor has it, another opening has not")
{
    int file = open_it(), copy = dup(file);

    WORKS(flock(file, LOCK_EX));
    WORKS(flock(copy, LOCK_EX | LOCK_NB));
    FAILS(flock(open_it(), LOCK_EX | LOCK_NB), EWOULDBLOCK);
    WORKS(close(file));
    FAILS(flock(open_it(), LOCK_EX | LOCK_NB), EWOULDBLOCK);
    WORKS(close(copy));
    WORKS(flock(open_it(), LOCK_EX | LOCK_NB));
}

CASE("flock", "is waited for, and goes with the process that has it")
{
    int ready[2];
    char byte;

    WORKS(pipe(ready));
    CHILD {
        WORKS(flock(open_it(), LOCK_EX));
        EQUAL(write(ready[1], "x", 1), 1);
        let_time_pass();
    }
    EQUAL(read(ready[0], &byte, 1), 1);
    WORKS(flock(open_it(), LOCK_EX));
    reap();
}

CASE("posix lock", "covers a range, and tells who has it")
{
    struct flock found = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 15, .l_len = 1};
    pid_t parent = getpid();
    int file = open_it();

    WORKS(lock(file, F_SETLK, F_WRLCK, 10, 10));
    CHILD {
        int other = open_it();

        FAILS(lock(other, F_SETLK, F_RDLCK, 19, 5), EAGAIN);
        WORKS(lock(other, F_SETLK, F_WRLCK, 20, 5));
        WORKS(lock(other, F_SETLK, F_WRLCK, 0, 10));
        WORKS(fcntl(other, F_GETLK, &found));
        EQUAL(found.l_type, F_WRLCK);
        EQUAL(found.l_pid, parent);
        EQUAL(found.l_start, 10);
        EQUAL(found.l_len, 10);
    }
    reap();
}

CASE("posix lock", "can be shared, split and given up in part")
{
    int file = open_it();

    WORKS(lock(file, F_SETLK, F_RDLCK, 0, 0));
    CHILD {
        int other = open_it();

        WORKS(lock(other, F_SETLK, F_RDLCK, 0, 0));
        FAILS(lock(other, F_SETLK, F_WRLCK, 5, 1), EAGAIN);
    }
    reap();
    WORKS(lock(file, F_SETLK, F_UNLCK, 5, 1));
    CHILD {
        int other = open_it();

        WORKS(lock(other, F_SETLK, F_WRLCK, 5, 1));
        FAILS(lock(other, F_SETLK, F_WRLCK, 6, 1), EAGAIN);
    }
    reap();
}

CASE("posix lock", "goes when the process closes any descriptor of the file")
{
    int file = open_it();

    WORKS(lock(file, F_SETLK, F_WRLCK, 0, 0));
    WORKS(close(open_it()));
    CHILD
        WORKS(lock(open_it(), F_SETLK, F_WRLCK, 0, 0));
    reap();
}

CASE("posix lock", "is waited for, and a circle of waiters is found")
{
    int ready[2], file = open_it();
    char byte;

    WORKS(pipe(ready));
    WORKS(lock(file, F_SETLK, F_WRLCK, 0, 1));
    CHILD {
        int other = open_it();

        WORKS(lock(other, F_SETLK, F_WRLCK, 1, 1));
        EQUAL(write(ready[1], "x", 1), 1);
        WORKS(lock(other, F_SETLKW, F_WRLCK, 0, 1));
    }
    EQUAL(read(ready[0], &byte, 1), 1);
    for (;;) {
        struct flock wanted = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1, .l_len = 1};

        /* The other has to wait before there is a circle. */
        let_time_pass();
        alarm(10);
        if (fcntl(file, F_SETLKW, &wanted) < 0) {
            EQUAL(errno, EDEADLK);
            break;
        }
    }
    WORKS(lock(file, F_SETLK, F_UNLCK, 0, 1));
    reap();
}

CASE("ofd lock", "is of the open file, within one process too")
{
    int one = open_it(), other = open_it();

    WORKS(lock(one, F_OFD_SETLK, F_WRLCK, 0, 10));
    FAILS(lock(other, F_OFD_SETLK, F_WRLCK, 5, 1), EAGAIN);
    WORKS(lock(other, F_OFD_SETLK, F_WRLCK, 10, 1));
    WORKS(close(open_it()));
    FAILS(lock(other, F_OFD_SETLK, F_RDLCK, 0, 1), EAGAIN);
    WORKS(close(one));
    WORKS(lock(other, F_OFD_SETLK, F_WRLCK, 0, 10));
}

CASE("ofd lock", "and one of POSIX keep each other out")
{
    int file = open_it();

    WORKS(lock(file, F_OFD_SETLK, F_WRLCK, 0, 1));
    CHILD
        FAILS(lock(open_it(), F_SETLK, F_WRLCK, 0, 1), EAGAIN);
    reap();
}
