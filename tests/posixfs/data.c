/* What is in a file: open, read, write, truncate, fallocate, mmap, fsync, programs. */
#include "suite.h"

#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define PAGE 4096

static char *map(int file, size_t size, int rights, int flags)
{
    char *at = mmap(0, size, rights, flags, file, 0);

    if (at == MAP_FAILED)
        fail(__FILE__, __LINE__, "mmap: %s", strerror(errno));
    return at;
}

CASE("open", "makes a file of the mode less the umask, of the caller's")
{
    umask(027);
    AS(NOBODY, OTHER) {
        WORKS(open("a", O_CREAT | O_WRONLY, 0777));
        EQUAL(look("a").st_mode, S_IFREG | 0750);
        EQUAL(look("a").st_uid, NOBODY);
        EQUAL(look("a").st_gid, OTHER);
    }
    umask(0);
    WORKS(open("b", O_CREAT | O_WRONLY, 06777));
    EQUAL(look("b").st_mode, S_IFREG | 06777);
}

CASE("open", "with O_EXCL refuses a name that is taken, by a link too")
{
    for (enum kind kind = REGULAR; kind < KINDS; kind++) {
        make(kind, "a", 0644);
        FAILS(open("a", O_CREAT | O_EXCL | O_WRONLY, 0644), EEXIST);
        WORKS(kind == FOLDER ? rmdir("a") : unlink("a"));
    }
}

CASE("open", "with O_TRUNC empties a file and changes its times")
{
    struct stat before;

    make_file("a", "full");
    before = look("a");
    let_time_pass();
    WORKS(open("a", O_WRONLY | O_TRUNC));
    EQUAL(look("a").st_size, 0);
    CHECK(is_later(look("a").st_mtim, before.st_mtim));
    CHECK(is_later(look("a").st_ctim, before.st_ctim));
}

CASE("open", "with O_APPEND writes at the end, wherever others have put it")
{
    char room[16];
    int one, other;

    WORKS(one = open("a", O_CREAT | O_WRONLY | O_APPEND, 0644));
    WORKS(other = open("a", O_WRONLY | O_APPEND));
    EQUAL(write(one, "1", 1), 1);
    EQUAL(write(other, "2", 1), 1);
    EQUAL(write(one, "3", 1), 1);
    EQUAL(pwrite(other, "4", 1, 0), 1);
    read_file("a", room, sizeof room);
    CHECK(!strcmp(room, "1234"));
}

CASE("open", "refuses what does not fit the kind of file")
{
    make(REGULAR, "a", 0644);
    make(FOLDER, "d", 0755);
    WORKS(symlink("a", "l"));
    FAILS(open("d", O_WRONLY), EISDIR);
    FAILS(open("d", O_CREAT | O_RDWR, 0644), EISDIR);
    FAILS(open("a", O_RDONLY | O_DIRECTORY), ENOTDIR);
    FAILS(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
    FAILS(open("a/b", O_RDONLY), ENOTDIR);
    FAILS(open("missing", O_RDONLY), ENOENT);
    FAILS(open("missing/a", O_CREAT | O_WRONLY, 0644), ENOENT);
}

CASE("open", "checks the rights of the user who opens")
{
    make(REGULAR, "a", 0640);
    WORKS(chown("a", OTHER, NOBODY));
    AS(NOBODY, NOBODY) {
        WORKS(open("a", O_RDONLY));
        FAILS(open("a", O_WRONLY), EACCES);
        FAILS(open("a", O_RDONLY | O_TRUNC), EACCES);
    }
    AS(NOBODY - 2, NOBODY - 2)
        FAILS(open("a", O_RDONLY), EACCES);
    AS(OTHER, OTHER)
        WORKS(open("a", O_RDWR));
}

CASE("open", "lets the one who makes a file write into it, whatever its mode")
{
    AS(NOBODY, NOBODY) {
        int file;

        WORKS(file = open("a", O_CREAT | O_WRONLY, 0));
        EQUAL(write(file, "x", 1), 1);
        FAILS(open("a", O_RDONLY), EACCES);
    }
}

CASE("open", "with O_TMPFILE makes a file without a name, which can get one")
{
    char room[8], path[32];
    int file;

    WORKS(file = open(".", O_TMPFILE | O_RDWR, 0600));
    EQUAL(count_entries("."), 0);
    EQUAL(write(file, "here", 4), 4);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    WORKS(linkat(AT_FDCWD, path, AT_FDCWD, "a", AT_SYMLINK_FOLLOW));
    read_file("a", room, sizeof room);
    CHECK(!strcmp(room, "here"));
}

CASE("open", "with O_DIRECT reads and writes whole pages")
{
    char *page = aligned_alloc(PAGE, PAGE);
    int file;

    memset(page, 'd', PAGE);
    WORKS(file = open("a", O_CREAT | O_RDWR | O_DIRECT, 0600));
    EQUAL(pwrite(file, page, PAGE, PAGE), PAGE);
    memset(page, 0, PAGE);
    EQUAL(pread(file, page, PAGE, PAGE), PAGE);
    EQUAL(page[PAGE - 1], 'd');
    EQUAL(pread(file, page, PAGE, 0), PAGE);
    EQUAL(page[PAGE - 1], 0);
}

CASE("write", "is read by every other descriptor at once")
{
    char room[8] = "";
    int one, other;

    WORKS(one = open("a", O_CREAT | O_RDWR, 0644));
    WORKS(other = open("a", O_RDONLY));
    for (int number = 0; number < 200; number++) {
        snprintf(room, sizeof room, "%03d", number);
        EQUAL(pwrite(one, room, 3, number * 1000), 3);
        memset(room, 0, sizeof room);
        EQUAL(pread(other, room, 3, number * 1000), 3);
        EQUAL(atoi(room), number);
    }
}

CASE("write", "takes many megabytes, and gives them back")
{
    enum { SIZE = 1 << 20, COUNT = 8 };
    unsigned *block = malloc(SIZE);
    int file;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    for (unsigned number = 0; number < COUNT; number++) {
        for (unsigned at = 0; at < SIZE / sizeof *block; at++)
            block[at] = at ^ number << 24;
        EQUAL(write(file, block, SIZE), SIZE);
    }
    EQUAL(look("a").st_size, COUNT * SIZE);
    WORKS(lseek(file, 0, SEEK_SET));
    for (unsigned number = 0; number < COUNT; number++) {
        EQUAL(read(file, block, SIZE), SIZE);
        for (unsigned at = 0; at < SIZE / sizeof *block; at++)
            if (block[at] != (at ^ number << 24))
                fail(__FILE__, __LINE__, "block %u differs at %u", number, at);
    }
    EQUAL(read(file, block, SIZE), 0);
}

CASE("write", "beyond the end leaves zeros before it")
{
    char room[100];
    int file;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    EQUAL(pwrite(file, "x", 1, 99), 1);
    EQUAL(pread(file, room, sizeof room, 0), 100);
    for (int at = 0; at < 99; at++)
        EQUAL(room[at], 0);
}

CASE("write", "of several buffers is one")
{
    struct iovec parts[3] = {{"one", 3}, {"", 0}, {"two", 3}};
    char room[16];
    int file;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    EQUAL(writev(file, parts, 3), 6);
    EQUAL(pwritev(file, parts, 1, 6), 3);
    read_file("a", room, sizeof room);
    CHECK(!strcmp(room, "onetwoone"));
}

CASE("write", "goes through a descriptor that allows it only")
{
    char room[4];
    int file;

    make_file("a", "abc");
    WORKS(file = open("a", O_RDONLY));
    FAILS(write(file, "x", 1), EBADF);
    WORKS(file = open("a", O_WRONLY));
    FAILS(read(file, room, 1), EBADF);
    FAILS(lseek(file, -1, SEEK_SET), EINVAL);
    WORKS(file = open(".", O_RDONLY));
    FAILS(read(file, room, 1), EISDIR);
}

CASE("truncate", "cuts a file and fills it with zeros")
{
    char room[16];

    make_file("a", "123456789");
    WORKS(truncate("a", 3));
    EQUAL(look("a").st_size, 3);
    WORKS(truncate("a", 6));
    read_file("a", room, sizeof room);
    CHECK(!memcmp(room, "123\0\0\0", 7));
    WORKS(truncate("a", 0));
    EQUAL(look("a").st_size, 0);
}

CASE("truncate", "changes the times of a file, whose descriptors see it at once")
{
    struct stat before, status;
    int file;

    make_file("a", "123");
    WORKS(file = open("a", O_RDWR));
    before = look("a");
    let_time_pass();
    WORKS(truncate("a", 1));
    WORKS(fstat(file, &status));
    EQUAL(status.st_size, 1);
    CHECK(is_later(status.st_mtim, before.st_mtim));
    CHECK(is_later(status.st_ctim, before.st_ctim));
    WORKS(ftruncate(file, 5));
    EQUAL(look("a").st_size, 5);
}

CASE("truncate", "refuses what cannot be cut")
{
    int file;

    make(FOLDER, "d", 0755);
    make(REGULAR, "a", 0644);
    FAILS(truncate("d", 0), EISDIR);
    FAILS(truncate("missing", 0), ENOENT);
    FAILS(truncate("a", -1), EINVAL);
    WORKS(file = open("a", O_RDONLY));
    FAILS(ftruncate(file, 0), EINVAL);
    AS(NOBODY, NOBODY)
        FAILS(truncate("a", 0), EACCES);
}

CASE("fallocate", "makes room and a longer file, or room alone")
{
    int file;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    WORKS(fallocate(file, 0, 0, 1 << 20));
    EQUAL(look("a").st_size, 1 << 20);
    CHECK(look("a").st_blocks >= 2048);
    WORKS(fallocate(file, FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20));
    EQUAL(look("a").st_size, 1 << 20);
}

CASE("fallocate", "punches holes, which read as zeros")
{
    static char room[3 * PAGE];
    int file;

    memset(room, 'x', sizeof room);
    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    EQUAL(write(file, room, sizeof room), sizeof room);
    WORKS(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, PAGE));
    EQUAL(pread(file, room, sizeof room, 0), sizeof room);
    EQUAL(room[PAGE - 1], 'x');
    EQUAL(room[PAGE], 0);
    EQUAL(room[2 * PAGE - 1], 0);
    EQUAL(room[2 * PAGE], 'x');
}

CASE("lseek", "finds data and holes")
{
    int file;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    EQUAL(pwrite(file, "x", 1, 1 << 20), 1);
    WORKS(fsync(file));
    EQUAL(lseek(file, 0, SEEK_DATA), 1 << 20);
    EQUAL(lseek(file, 0, SEEK_HOLE), 0);
    EQUAL(lseek(file, 1 << 20, SEEK_HOLE), (1 << 20) + 1);
    FAILS(lseek(file, 2 << 20, SEEK_DATA), ENXIO);
}

CASE("copy", "by copy_file_range and sendfile gives the same bytes")
{
    char room[16];
    int from, to;

    make_file("a", "0123456789");
    WORKS(from = open("a", O_RDONLY));
    WORKS(to = open("b", O_CREAT | O_RDWR, 0644));
    EQUAL(copy_file_range(from, &(off_t){2}, to, 0, 4, 0), 4);
    EQUAL(sendfile(to, from, &(off_t){6}, 4), 4);
    read_file("b", room, sizeof room);
    CHECK(!strcmp(room, "23456789"));
}

CASE("mmap", "shows what is written, and writes what is changed")
{
    char room[8] = "";
    int file;
    char *at;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    WORKS(ftruncate(file, 2 * PAGE));
    at = map(file, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    EQUAL(pwrite(file, "file", 4, PAGE - 2), 4);
    CHECK(!memcmp(at + PAGE - 2, "file", 4));
    memcpy(at + PAGE + 100, "map", 3);
    EQUAL(pread(file, room, 3, PAGE + 100), 3);
    CHECK(!strcmp(room, "map"));
    WORKS(msync(at, 2 * PAGE, MS_SYNC));
    WORKS(munmap(at, 2 * PAGE));
    EQUAL(pread(file, room, 3, PAGE + 100), 3);
    CHECK(!strcmp(room, "map"));
}

CASE("mmap", "is one memory for all processes that share it")
{
    int file, other;
    char *at;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    WORKS(ftruncate(file, PAGE));
    at = map(file, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    CHILD {
        WORKS(other = open("a", O_RDWR));
        strcpy(map(other, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED), "from the child");
    }
    reap();
    CHECK(!strcmp(at, "from the child"));
}

CASE("mmap", "that is private changes no file")
{
    char room[8];
    int file;
    char *at;

    make_file("a", "file");
    WORKS(file = open("a", O_RDONLY));
    at = map(file, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    memcpy(at, "mine", 4);
    read_file("a", room, sizeof room);
    CHECK(!strcmp(room, "file"));
    EQUAL(at[PAGE - 1], 0);
    FAILS(-(mmap(0, PAGE, PROT_WRITE, MAP_SHARED, file, 0) == MAP_FAILED), EACCES);
}

CASE("mmap", "outlives the descriptor and the name of its file")
{
    int file;
    char *at;

    make_file("a", "kept");
    WORKS(file = open("a", O_RDWR));
    at = map(file, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    WORKS(close(file));
    WORKS(unlink("a"));
    CHECK(!memcmp(at, "kept", 4));
    at[0] = 'x';
    WORKS(msync(at, PAGE, MS_SYNC));
}

static void exit_well(int number)
{
    (void)number;
    _exit(0);
}

CASE("mmap", "ends where its file was cut")
{
    int file;
    volatile char *at;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    WORKS(ftruncate(file, 2 * PAGE));
    at = map(file, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    at[PAGE] = 'x';
    WORKS(ftruncate(file, PAGE));
    signal(SIGBUS, exit_well);
    at[PAGE] = 'y';
    fail(__FILE__, __LINE__, "a page beyond the end of the file was written");
}

CASE("fsync", "takes files and directories, and pages that a mapping changed")
{
    int file, directory;
    char *at;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0644));
    EQUAL(write(file, "x", 1), 1);
    WORKS(fsync(file));
    WORKS(fdatasync(file));
    at = map(file, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    at[0] = 'y';
    WORKS(msync(at, PAGE, MS_SYNC));
    WORKS(fsync(file));
    WORKS(directory = open(".", O_RDONLY | O_DIRECTORY));
    WORKS(fsync(directory));
    WORKS(fdatasync(directory));
    WORKS(syncfs(directory));
    WORKS(sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WRITE));
    FAILS(fsync(-1), EBADF);
}

CASE("fsync", "is part of each write with O_SYNC")
{
    char room[8];
    int file;

    WORKS(file = open("a", O_CREAT | O_WRONLY | O_SYNC, 0644));
    EQUAL(write(file, "sync", 4), 4);
    WORKS(file = open("a", O_WRONLY | O_DSYNC));
    EQUAL(write(file, "data", 4), 4);
    read_file("a", room, sizeof room);
    CHECK(!strcmp(room, "data"));
}

static int run_program(const char *path)
{
    pid_t child = fork();
    int status;

    WORKS(child);
    if (!child) {
        execl(path, path, (char *)0);
        _exit(100 + errno);
    }
    WORKS(waitpid(child, &status, 0));
    return WEXITSTATUS(status);
}

/* The smallest program: ELF64 for x86-64 with `exit(42)`. Source: elf(5). */
static const unsigned char program[] = {
    0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0, 0x78, 0, 0x40, 0, 0, 0, 0, 0,
    64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0,
    1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0,
    0x84, 0, 0, 0, 0, 0, 0, 0, 0x84, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
    0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05,
};

CASE("exec", "runs a program that may be executed, and no other")
{
    int file;

    WORKS(file = open("p", O_CREAT | O_WRONLY, 0644));
    EQUAL(write(file, program, sizeof program), sizeof program);
    WORKS(close(file));
    EQUAL(run_program("./p"), 100 + EACCES);
    WORKS(chmod("p", 0755));
    EQUAL(run_program("./p"), 42);
}

CASE("exec", "takes no program that is open for writing")
{
    int file;

    WORKS(file = open("p", O_CREAT | O_WRONLY, 0755));
    EQUAL(write(file, program, sizeof program), sizeof program);
    EQUAL(run_program("./p"), 100 + ETXTBSY);
    WORKS(close(file));
    EQUAL(run_program("./p"), 42);
}
