/* Names and what they lead to: link, unlink, rename, mkdir, rmdir, symlink, mkfifo, mknod, directories. */
#include "suite.h"

#include <dirent.h>
#include <linux/fs.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#define LONGEST 255

static const char *longest(void)
{
    static char name[LONGEST + 1];

    memset(name, 'n', LONGEST);
    return name;
}

CASE("link", "gives any kind of file a second name")
{
    for (enum kind kind = REGULAR; kind < KINDS; kind++) {
        struct stat a, b;

        if (kind == FOLDER)
            continue;
        make(kind, "a", 0644);
        WORKS(linkat(AT_FDCWD, "a", AT_FDCWD, "b", 0));
        a = look("a"), b = look("b");
        EQUAL(a.st_ino, b.st_ino);
        EQUAL(a.st_dev, b.st_dev);
        EQUAL(a.st_nlink, 2);
        EQUAL(b.st_mode, a.st_mode);
        WORKS(unlink("a"));
        EQUAL(look("b").st_nlink, 1);
        WORKS(unlink("b"));
    }
}

CASE("link", "shows what is written by one name under the other")
{
    char room[16];
    int file;

    make_file("a", "old");
    WORKS(mkdir("d", 0755));
    WORKS(link("a", "d/b"));
    WORKS(file = open("d/b", O_WRONLY));
    EQUAL(write(file, "new", 3), 3);
    read_file("a", room, sizeof room);
    CHECK(!strcmp(room, "new"));
    WORKS(chmod("a", 0600));
    EQUAL(look("d/b").st_mode & 07777, 0600);
    WORKS(truncate("d/b", 1));
    EQUAL(look("a").st_size, 1);
}

CASE("link", "changes the file's ctime and the directory's times")
{
    struct stat file, directory;

    make(REGULAR, "a", 0644);
    WORKS(mkdir("d", 0755));
    file = look("a"), directory = look("d");
    let_time_pass();
    WORKS(link("a", "d/b"));
    CHECK(is_later(look("a").st_ctim, file.st_ctim));
    CHECK(is_later(look("d").st_mtim, directory.st_mtim));
    CHECK(is_later(look("d").st_ctim, directory.st_ctim));
}

CASE("link", "refuses directories, names that are taken and files that are missing")
{
    make(FOLDER, "d", 0755);
    FAILS(link("d", "e"), EPERM);
    make(REGULAR, "a", 0644);
    FAILS(link("missing", "b"), ENOENT);
    FAILS(link("a", "missing/b"), ENOENT);
    FAILS(link("a/x", "b"), ENOTDIR);
    for (enum kind kind = REGULAR; kind < KINDS; kind++) {
        make(kind, "b", 0755);
        FAILS(link("a", "b"), EEXIST);
        WORKS(kind == FOLDER ? rmdir("b") : unlink("b"));
    }
}

CASE("link", "leads through a link or names it, as asked")
{
    make_file("a", "");
    WORKS(symlink("a", "l"));
    WORKS(linkat(AT_FDCWD, "l", AT_FDCWD, "same", 0));
    CHECK(S_ISLNK(look("same").st_mode));
    WORKS(linkat(AT_FDCWD, "l", AT_FDCWD, "behind", AT_SYMLINK_FOLLOW));
    EQUAL(look("behind").st_ino, look("a").st_ino);
}

CASE("link", "needs the right to write into the directory")
{
    make(REGULAR, "a", 0666);
    make(FOLDER, "d", 0755);
    AS(NOBODY, NOBODY)
        FAILS(link("a", "d/b"), EACCES);
}

CASE("unlink", "removes any kind of file, and its directory's times change")
{
    for (enum kind kind = REGULAR; kind < KINDS; kind++) {
        struct stat before;

        if (kind == FOLDER)
            continue;
        make(FOLDER, "d", 0755);
        make(kind, "d/a", 0644);
        before = look("d");
        let_time_pass();
        WORKS(unlink("d/a"));
        FAILS(lstat("d/a", &(struct stat){0}), ENOENT);
        CHECK(is_later(look("d").st_mtim, before.st_mtim));
        CHECK(is_later(look("d").st_ctim, before.st_ctim));
        WORKS(rmdir("d"));
    }
}

CASE("unlink", "changes the ctime of a file that has other names")
{
    struct stat before;

    make(REGULAR, "a", 0644);
    WORKS(link("a", "b"));
    before = look("a");
    let_time_pass();
    WORKS(unlink("b"));
    CHECK(is_later(look("a").st_ctim, before.st_ctim));
    EQUAL(look("a").st_nlink, 1);
}

CASE("unlink", "refuses what is no file, is missing or is in the way")
{
    make(FOLDER, "d", 0755);
    make(REGULAR, "a", 0644);
    FAILS(unlink("d"), EISDIR);
    FAILS(unlink("missing"), ENOENT);
    FAILS(unlink("missing/a"), ENOENT);
    FAILS(unlink("a/b"), ENOTDIR);
    FAILS(unlink(""), ENOENT);
}

CASE("unlink", "needs the right to write into the directory, not to the file")
{
    make(FOLDER, "d", 0755);
    make(REGULAR, "d/a", 0666);
    AS(NOBODY, NOBODY)
        FAILS(unlink("d/a"), EACCES);
    WORKS(chmod("d", 0777));
    WORKS(chmod("d/a", 0));
    AS(NOBODY, NOBODY)
        WORKS(unlink("d/a"));
}

CASE("unlink", "keeps others' files in a sticky directory")
{
    make(FOLDER, "d", 01777);
    make(REGULAR, "d/a", 0666);
    WORKS(chown("d/a", OTHER, OTHER));
    AS(NOBODY, NOBODY)
        FAILS(unlink("d/a"), EPERM);
    AS(OTHER, OTHER)
        WORKS(unlink("d/a"));
}

CASE("unlink", "leaves an open file to whoever has it open")
{
    struct stat status;
    char room[8];
    int file;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0600));
    EQUAL(write(file, "kept", 4), 4);
    WORKS(unlink("a"));
    WORKS(fstat(file, &status));
    EQUAL(status.st_nlink, 0);
    EQUAL(pread(file, room, sizeof room, 0), 4);
    EQUAL(pwrite(file, "more", 4, 4), 4);
    WORKS(ftruncate(file, 6));
    WORKS(fchmod(file, 0640));
    WORKS(fstat(file, &status));
    EQUAL(status.st_size, 6);
    EQUAL(status.st_mode & 07777, 0640);
    FAILS(open("a", O_RDONLY), ENOENT);
    WORKS(close(file));
    EQUAL(count_entries("."), 0);
}

CASE("unlink", "lets a new file have the name of one that is open")
{
    char room[8] = "";
    int file;

    make_file("a", "old");
    WORKS(file = open("a", O_RDONLY));
    WORKS(unlink("a"));
    make_file("a", "newer");
    EQUAL(read(file, room, sizeof room), 3);
    EQUAL(look("a").st_size, 5);
}

CASE("rename", "moves any kind of file and keeps what it is")
{
    make(FOLDER, "d", 0755);
    for (enum kind kind = REGULAR; kind < KINDS; kind++) {
        struct stat before;

        make(kind, "a", 0640);
        before = look("a");
        WORKS(rename("a", "d/b"));
        FAILS(lstat("a", &(struct stat){0}), ENOENT);
        EQUAL(look("d/b").st_ino, before.st_ino);
        EQUAL(look("d/b").st_mode, before.st_mode);
        WORKS(kind == FOLDER ? rmdir("d/b") : unlink("d/b"));
    }
}

CASE("rename", "replaces a file, which those who have it open keep")
{
    char room[8] = "";
    int file;

    make_file("old", "old");
    make_file("new", "newer");
    WORKS(file = open("old", O_RDONLY));
    WORKS(rename("new", "old"));
    EQUAL(read(file, room, sizeof room), 3);
    read_file("old", room, sizeof room);
    CHECK(!strcmp(room, "newer"));
    EQUAL(count_entries("."), 1);
}

CASE("rename", "replaces an empty directory only")
{
    make(FOLDER, "a", 0755);
    make(FOLDER, "empty", 0755);
    make(FOLDER, "full", 0755);
    make(REGULAR, "full/x", 0644);
    CHECK(rename("a", "full") < 0 && (errno == ENOTEMPTY || errno == EEXIST));
    WORKS(rename("full", "empty"));
    EQUAL(count_entries("empty"), 1);
}

CASE("rename", "mixes no files and directories")
{
    make(FOLDER, "d", 0755);
    make(REGULAR, "a", 0644);
    FAILS(rename("a", "d"), EISDIR);
    FAILS(rename("d", "a"), ENOTDIR);
    FAILS(rename("missing", "b"), ENOENT);
    FAILS(rename("a", "missing/b"), ENOENT);
    FAILS(rename("a/x", "b"), ENOTDIR);
}

CASE("rename", "puts no directory into itself")
{
    WORKS(mkdir("a", 0755));
    WORKS(mkdir("a/b", 0755));
    FAILS(rename("a", "a/b/c"), EINVAL);
    FAILS(rename("a", "a/a"), EINVAL);
    FAILS(rename("a/b/..", "x"), EBUSY);
}

CASE("rename", "does nothing to two names of one file")
{
    make(REGULAR, "a", 0644);
    WORKS(link("a", "b"));
    WORKS(rename("a", "b"));
    EQUAL(count_entries("."), 2);
    WORKS(rename("a", "a"));
}

CASE("rename", "changes the times of both directories and the links of a directory that moves")
{
    struct stat from, to;

    WORKS(mkdir("from", 0755));
    WORKS(mkdir("to", 0755));
    WORKS(mkdir("from/d", 0755));
    from = look("from"), to = look("to");
    let_time_pass();
    WORKS(rename("from/d", "to/d"));
    CHECK(is_later(look("from").st_mtim, from.st_mtim));
    CHECK(is_later(look("to").st_mtim, to.st_mtim));
    EQUAL(look("from").st_nlink, from.st_nlink - 1);
    EQUAL(look("to").st_nlink, to.st_nlink + 1);
    EQUAL(look("to/d/..").st_ino, look("to").st_ino);
}

CASE("rename", "moves a link, not what it leads to")
{
    make_file("a", "x");
    WORKS(symlink("a", "l"));
    WORKS(rename("l", "m"));
    CHECK(S_ISLNK(look("m").st_mode));
    make_file("b", "y");
    WORKS(rename("b", "m"));
    CHECK(S_ISREG(look("m").st_mode));
    EQUAL(look("a").st_size, 1);
}

CASE("rename", "with RENAME_NOREPLACE replaces nothing")
{
    make_file("a", "a");
    make_file("b", "bb");
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    EQUAL(look("b").st_size, 2);
    WORKS(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
}

CASE("rename", "with RENAME_EXCHANGE swaps a file and a directory")
{
    make_file("a", "a");
    make(FOLDER, "d", 0755);
    WORKS(renameat2(AT_FDCWD, "a", AT_FDCWD, "d", RENAME_EXCHANGE));
    CHECK(S_ISDIR(look("a").st_mode) && S_ISREG(look("d").st_mode));
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "missing", RENAME_EXCHANGE), ENOENT);
}

CASE("rename", "needs the right to write into both directories")
{
    make(FOLDER, "open", 0777);
    make(FOLDER, "closed", 0755);
    make(REGULAR, "open/a", 0666);
    make(REGULAR, "closed/a", 0666);
    AS(NOBODY, NOBODY) {
        FAILS(rename("open/a", "closed/b"), EACCES);
        FAILS(rename("closed/a", "open/b"), EACCES);
    }
}

CASE("rename", "replaces no file of others in a sticky directory")
{
    make(FOLDER, "d", 01777);
    make(REGULAR, "d/theirs", 0666);
    WORKS(chown("d/theirs", OTHER, OTHER));
    AS(NOBODY, NOBODY) {
        make(REGULAR, "d/mine", 0644);
        FAILS(rename("d/mine", "d/theirs"), EPERM);
        FAILS(rename("d/theirs", "d/new"), EPERM);
        WORKS(rename("d/mine", "d/new"));
    }
}

CASE("mkdir", "makes a directory of the mode less the umask, whose parent gains a link")
{
    struct stat before = look("."), made;

    umask(027);
    let_time_pass();
    WORKS(mkdir("d", 0777));
    made = look("d");
    EQUAL(made.st_mode, S_IFDIR | 0750);
    EQUAL(made.st_uid, 0);
    EQUAL(made.st_nlink, 2);
    EQUAL(look(".").st_nlink, before.st_nlink + 1);
    CHECK(is_later(look(".").st_mtim, before.st_mtim));
}

CASE("mkdir", "refuses a name that is taken, by whatever it is")
{
    for (enum kind kind = REGULAR; kind < KINDS; kind++) {
        make(kind, "a", 0755);
        FAILS(mkdir("a", 0755), EEXIST);
        WORKS(kind == FOLDER ? rmdir("a") : unlink("a"));
    }
    FAILS(mkdir("missing/d", 0755), ENOENT);
    FAILS(mkdir(".", 0755), EEXIST);
}

CASE("mkdir", "takes group and set-group-ID from a directory that has it")
{
    WORKS(mkdir("d", 0755));
    WORKS(chown("d", 0, NOBODY));
    WORKS(chmod("d", 02777));
    AS(OTHER, OTHER) {
        WORKS(mkdir("d/e", 0755));
        EQUAL(look("d/e").st_gid, NOBODY);
        EQUAL(look("d/e").st_mode & 07777, 02755);
        make(REGULAR, "d/f", 0644);
        EQUAL(look("d/f").st_gid, NOBODY);
    }
}

CASE("mkdir", "needs the right to write into the directory")
{
    AS(NOBODY, NOBODY) {
        WORKS(mkdir("mine", 0700));
        EQUAL(look("mine").st_uid, NOBODY);
    }
    WORKS(chmod(".", 0755));
    AS(NOBODY, NOBODY)
        FAILS(mkdir("other", 0700), EACCES);
}

CASE("rmdir", "removes an empty directory, whose parent loses a link")
{
    struct stat before = look(".");

    WORKS(mkdir("d", 0755));
    make(REGULAR, "d/a", 0644);
    CHECK(rmdir("d") < 0 && (errno == ENOTEMPTY || errno == EEXIST));
    WORKS(unlink("d/a"));
    WORKS(rmdir("d"));
    EQUAL(look(".").st_nlink, before.st_nlink);
}

CASE("rmdir", "refuses what is no directory, is missing or is the place itself")
{
    make(REGULAR, "a", 0644);
    make(FOLDER, "d", 0755);
    WORKS(symlink("d", "l"));
    FAILS(rmdir("a"), ENOTDIR);
    FAILS(rmdir("l"), ENOTDIR);
    FAILS(rmdir("missing"), ENOENT);
    FAILS(rmdir("d/."), EINVAL);
    CHECK(rmdir("d/..") < 0 && (errno == ENOTEMPTY || errno == EEXIST || errno == EBUSY));
}

CASE("rmdir", "leaves a directory that somebody is in empty and closed to new files")
{
    WORKS(mkdir("d", 0755));
    WORKS(chdir("d"));
    WORKS(rmdir("../d"));
    FAILS(open("a", O_CREAT | O_WRONLY, 0644), ENOENT);
    EQUAL(count_entries("."), 0);
}

CASE("symlink", "has a target of any bytes, which readlink returns")
{
    char target[4096], found[4096] = "";

    memset(target, 't', 4000);
    target[4000] = 0;
    target[1] = '\xff';
    WORKS(symlink(target, "l"));
    EQUAL(readlink("l", found, sizeof found), 4000);
    CHECK(!memcmp(found, target, 4000));
    EQUAL(look("l").st_size, 4000);
    EQUAL(look("l").st_mode, S_IFLNK | 0777);
    EQUAL(readlink("l", found, 10), 10);
    FAILS(readlink(".", found, 10), EINVAL);
}

CASE("symlink", "is followed to a file, a directory, and nowhere")
{
    make_file("a", "x");
    make(FOLDER, "d", 0755);
    make_file("d/b", "y");
    WORKS(symlink("a", "file"));
    WORKS(symlink("d", "folder"));
    WORKS(symlink("missing", "dangling"));
    WORKS(access("file", R_OK));
    WORKS(access("folder/b", R_OK));
    FAILS(access("dangling", F_OK), ENOENT);
    WORKS(close(open("dangling", O_CREAT | O_WRONLY, 0644)));
    EQUAL(look("missing").st_mode, S_IFREG | 0644);
}

CASE("symlink", "is no way in a circle")
{
    WORKS(symlink("b", "a"));
    WORKS(symlink("a", "b"));
    FAILS(open("a", O_RDONLY), ELOOP);
    FAILS(access("a/x", F_OK), ELOOP);
    FAILS(symlink("x", "a"), EEXIST);
}

CASE("mkfifo", "makes a FIFO of the mode less the umask")
{
    umask(022);
    WORKS(mkfifo("f", 0666));
    EQUAL(look("f").st_mode, S_IFIFO | 0644);
    FAILS(mkfifo("f", 0666), EEXIST);
    FAILS(mkfifo("missing/f", 0666), ENOENT);
}

CASE("mkfifo", "carries bytes from one process to another")
{
    char room[8] = "";
    int file;

    WORKS(mkfifo("f", 0600));
    FAILS(open("f", O_WRONLY | O_NONBLOCK), ENXIO);
    CHILD {
        WORKS(file = open("f", O_WRONLY));
        EQUAL(write(file, "word", 4), 4);
    }
    WORKS(file = open("f", O_RDONLY));
    EQUAL(read(file, room, sizeof room), 4);
    EQUAL(read(file, room, sizeof room), 0);
    reap();
}

CASE("mknod", "makes files, FIFOs, sockets and device nodes with their numbers")
{
    WORKS(mknod("file", S_IFREG | 0640, 0));
    WORKS(mknod("fifo", S_IFIFO | 0640, 0));
    WORKS(mknod("socket", S_IFSOCK | 0640, 0));
    WORKS(mknod("character", S_IFCHR | 0640, makedev(1, 7)));
    WORKS(mknod("block", S_IFBLK | 0640, makedev(259, 70000)));
    EQUAL(look("file").st_mode, S_IFREG | 0640);
    EQUAL(look("fifo").st_mode, S_IFIFO | 0640);
    EQUAL(look("socket").st_mode, S_IFSOCK | 0640);
    EQUAL(look("character").st_mode, S_IFCHR | 0640);
    EQUAL(look("character").st_rdev, makedev(1, 7));
    EQUAL(look("block").st_rdev, makedev(259, 70000));
    FAILS(mknod("file", S_IFREG | 0640, 0), EEXIST);
}

CASE("mknod", "gives device nodes to root only")
{
    AS(NOBODY, NOBODY) {
        FAILS(mknod("character", S_IFCHR | 0666, makedev(1, 3)), EPERM);
        WORKS(mknod("fifo", S_IFIFO | 0600, 0));
    }
}

CASE("socket", "is bound to a name and connected to by it")
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "s"};
    int server, client;

    WORKS(server = socket(AF_UNIX, SOCK_STREAM, 0));
    WORKS(bind(server, (struct sockaddr *)&address, sizeof address));
    WORKS(listen(server, 1));
    WORKS(client = socket(AF_UNIX, SOCK_STREAM, 0));
    WORKS(connect(client, (struct sockaddr *)&address, sizeof address));
    FAILS(open("s", O_RDONLY), ENXIO);
    WORKS(close(server));
    FAILS(connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address), ECONNREFUSED);
}

CASE("names", "have 255 bytes at most, and any but NUL and slash")
{
    char byte[2] = "";

    make(REGULAR, longest(), 0644);
    WORKS(access(longest(), F_OK));
    for (int value = 1; value < 256; value++) {
        byte[0] = (char)value;
        if (value != '/' && value != '.') {
            make(REGULAR, byte, 0644);
            WORKS(unlink(byte));
        }
    }
    {
        char longer[LONGEST + 2] = "";

        memset(longer, 'n', LONGEST + 1);
        FAILS(open(longer, O_CREAT | O_WRONLY, 0644), ENAMETOOLONG);
        FAILS(mkdir(longer, 0755), ENAMETOOLONG);
        FAILS(rename(longest(), longer), ENAMETOOLONG);
        FAILS(unlink(longer), ENAMETOOLONG);
        FAILS(symlink("x", longer), ENAMETOOLONG);
        FAILS(link(longest(), longer), ENAMETOOLONG);
    }
}

CASE("names", "differ by case")
{
    make_file("a", "1");
    make_file("A", "22");
    EQUAL(look("a").st_size, 1);
    EQUAL(count_entries("."), 2);
}

CASE("names", "may be a hundred directories deep")
{
    for (int depth = 0; depth < 100; depth++) {
        WORKS(mkdir("directory", 0755));
        WORKS(chdir("directory"));
    }
    make(REGULAR, "a", 0644);
    for (int depth = 0; depth < 100; depth++)
        WORKS(chdir(".."));
    EQUAL(count_entries("."), 1);
}

CASE("readdir", "lists each of a thousand files once, with its kind and number")
{
    enum { COUNT = 1000 };
    static char seen[COUNT];
    DIR *directory;
    char name[16];

    for (int number = 0; number < COUNT; number++) {
        snprintf(name, sizeof name, "%d", number);
        make(number % 2 ? REGULAR : LINK, name, 0644);
    }
    CHECK((directory = opendir(".")));
    for (struct dirent *entry; (entry = readdir(directory));) {
        int number = atoi(entry->d_name);

        if (entry->d_name[0] == '.')
            continue;
        EQUAL(entry->d_type, number % 2 ? DT_REG : DT_LNK);
        EQUAL(entry->d_ino, look(entry->d_name).st_ino);
        EQUAL(seen[number]++, 0);
    }
    for (int number = 0; number < COUNT; number++)
        EQUAL(seen[number], 1);
    rewinddir(directory);
    CHECK(readdir(directory));
}

CASE("readdir", "goes on where it was while files are removed")
{
    enum { COUNT = 500 };
    int removed = 0;
    DIR *directory;
    char name[16];

    for (int number = 0; number < COUNT; number++) {
        snprintf(name, sizeof name, "%d", number);
        make(REGULAR, name, 0644);
    }
    CHECK((directory = opendir(".")));
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.') {
            WORKS(unlink(entry->d_name));
            removed++;
        }
    EQUAL(removed, COUNT);
    EQUAL(count_entries("."), 0);
}

CASE("readdir", "goes back to a place that telldir returned")
{
    char name[16], wanted[256];
    struct dirent *entry;
    DIR *directory;
    long place;

    for (int number = 0; number < 100; number++) {
        snprintf(name, sizeof name, "%d", number);
        make(REGULAR, name, 0644);
    }
    CHECK((directory = opendir(".")));
    for (int number = 0; number < 50; number++)
        CHECK(readdir(directory));
    place = telldir(directory);
    CHECK((entry = readdir(directory)));
    strcpy(wanted, entry->d_name);
    while (readdir(directory))
        ;
    seekdir(directory, place);
    CHECK((entry = readdir(directory)));
    CHECK(!strcmp(entry->d_name, wanted));
}
