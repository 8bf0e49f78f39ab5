/* What is known of a file: chmod, chown, utimensat, stat, access, extended attributes. */
#include "suite.h"

#include <grp.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

static void write_byte(const char *path)
{
    int file;

    WORKS(file = open(path, O_WRONLY));
    EQUAL(write(file, "x", 1), 1);
    WORKS(close(file));
}

CASE("chmod", "sets all twelve bits of any kind of file, and its ctime")
{
    static const mode_t modes[] = {0, 0111, 0640, 0777, 01777, 02755, 04711, 07777};

    for (enum kind kind = REGULAR; kind < LINK; kind++) {
        make(kind, "a", 0644);
        for (size_t number = 0; number < sizeof modes / sizeof *modes; number++) {
            struct stat before = look("a");

            let_time_pass();
            WORKS(chmod("a", modes[number]));
            EQUAL(look("a").st_mode & 07777, modes[number]);
            CHECK(is_later(look("a").st_ctim, before.st_ctim));
        }
        WORKS(kind == FOLDER ? rmdir("a") : unlink("a"));
    }
}

CASE("chmod", "changes what a link leads to")
{
    make(REGULAR, "a", 0644);
    WORKS(symlink("a", "l"));
    WORKS(chmod("l", 0600));
    EQUAL(look("a").st_mode & 07777, 0600);
    FAILS(chmod("missing", 0600), ENOENT);
    FAILS(chmod("a/b", 0600), ENOTDIR);
}

CASE("chmod", "is for the owner and root")
{
    make(REGULAR, "a", 0666);
    WORKS(chown("a", OTHER, OTHER));
    AS(NOBODY, NOBODY)
        FAILS(chmod("a", 0600), EPERM);
    AS(OTHER, OTHER)
        WORKS(chmod("a", 0600));
}

CASE("chmod", "drops set-group-ID of a group that its owner is not in")
{
    make(REGULAR, "a", 0755);
    WORKS(chown("a", OTHER, NOBODY));
    AS(OTHER, OTHER) {
        WORKS(chmod("a", 02755));
        EQUAL(look("a").st_mode & 07777, 0755);
    }
}

CASE("chmod", "works by descriptor, of an open file that has no name any more too")
{
    struct stat status;
    int file;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0600));
    WORKS(unlink("a"));
    WORKS(fchmod(file, 0444));
    WORKS(fstat(file, &status));
    EQUAL(status.st_mode & 07777, 0444);
}

CASE("chown", "sets owner and group of any kind of file, and its ctime")
{
    for (enum kind kind = REGULAR; kind < KINDS; kind++) {
        struct stat before;

        make(kind, "a", 0644);
        before = look("a");
        let_time_pass();
        WORKS(lchown("a", 123, 456));
        EQUAL(look("a").st_uid, 123);
        EQUAL(look("a").st_gid, 456);
        CHECK(is_later(look("a").st_ctim, before.st_ctim));
        WORKS(lchown("a", -1, 789));
        EQUAL(look("a").st_uid, 123);
        EQUAL(look("a").st_gid, 789);
        WORKS(lchown("a", 3000000000u, -1));
        EQUAL(look("a").st_uid, 3000000000u);
        WORKS(kind == FOLDER ? rmdir("a") : unlink("a"));
    }
}

CASE("chown", "changes what a link leads to, and lchown the link")
{
    make(REGULAR, "a", 0644);
    WORKS(symlink("a", "l"));
    WORKS(chown("l", 1, 1));
    WORKS(lchown("l", 2, 2));
    EQUAL(look("a").st_uid, 1);
    EQUAL(look("l").st_uid, 2);
}

CASE("chown", "is for root, and the owner may give a file to a group of its own")
{
    make(REGULAR, "a", 0666);
    WORKS(chown("a", OTHER, OTHER));
    AS(NOBODY, NOBODY)
        FAILS(chown("a", NOBODY, NOBODY), EPERM);
    AS(OTHER, OTHER) {
        FAILS(chown("a", NOBODY, -1), EPERM);
        FAILS(chown("a", -1, NOBODY), EPERM);
    }
    if (!fork()) {
        gid_t group = NOBODY;

        WORKS(setgroups(1, &group));
        WORKS(setresgid(OTHER, OTHER, OTHER));
        WORKS(setresuid(OTHER, OTHER, OTHER));
        WORKS(chown("a", -1, NOBODY));
        _exit(0);
    }
    wait(0);
    EQUAL(look("a").st_gid, NOBODY);
}

CASE("chown", "takes set-user-ID and set-group-ID from a program")
{
    make(REGULAR, "a", 06755);
    WORKS(chown("a", OTHER, OTHER));
    EQUAL(look("a").st_mode & 07777, 0755);
}

CASE("write", "takes set-user-ID and set-group-ID from a program when its writer is not root")
{
    make(REGULAR, "a", 06777);
    AS(NOBODY, NOBODY)
        write_byte("a");
    EQUAL(look("a").st_mode & 07777, 0777);
}

CASE("truncate", "takes set-user-ID and set-group-ID from a program when the caller is not root")
{
    make(REGULAR, "a", 06777);
    AS(NOBODY, NOBODY)
        WORKS(truncate("a", 10));
    EQUAL(look("a").st_mode & 07777, 0777);
}

CASE("utimensat", "sets times to the nanosecond, long ago and far ahead")
{
    static const time_t seconds[] = {-1000000, 0, 1, 1000000000, 4000000000, 10000000000};

    make(REGULAR, "a", 0644);
    for (size_t number = 0; number < sizeof seconds / sizeof *seconds; number++) {
        struct timespec times[2] = {{seconds[number], 123456789}, {seconds[number], 987654321}};

        WORKS(utimensat(AT_FDCWD, "a", times, 0));
        EQUAL(look("a").st_atim.tv_sec, seconds[number]);
        EQUAL(look("a").st_atim.tv_nsec, 123456789);
        EQUAL(look("a").st_mtim.tv_sec, seconds[number]);
        EQUAL(look("a").st_mtim.tv_nsec, 987654321);
    }
}

CASE("utimensat", "sets now, leaves alone, and changes the ctime")
{
    struct timespec times[2] = {{0, UTIME_OMIT}, {1000, 0}};
    struct stat before;

    make(REGULAR, "a", 0644);
    before = look("a");
    let_time_pass();
    WORKS(utimensat(AT_FDCWD, "a", times, 0));
    EQUAL(look("a").st_atim.tv_nsec, before.st_atim.tv_nsec);
    EQUAL(look("a").st_mtim.tv_sec, 1000);
    CHECK(is_later(look("a").st_ctim, before.st_ctim));
    times[0].tv_nsec = times[1].tv_nsec = UTIME_NOW;
    WORKS(utimensat(AT_FDCWD, "a", times, 0));
    CHECK(look("a").st_mtim.tv_sec >= before.st_mtim.tv_sec);
}

CASE("utimensat", "sets the times of a link, not of what it leads to")
{
    struct timespec times[2] = {{1, 2}, {3, 4}};

    make(REGULAR, "a", 0644);
    WORKS(symlink("a", "l"));
    WORKS(utimensat(AT_FDCWD, "l", times, AT_SYMLINK_NOFOLLOW));
    EQUAL(look("l").st_mtim.tv_sec, 3);
    CHECK(look("a").st_mtim.tv_sec > 3);
}

CASE("utimensat", "sets any time for the owner, and now for whoever may write")
{
    struct timespec times[2] = {{1, 2}, {3, 4}};

    make(REGULAR, "a", 0666);
    WORKS(chown("a", OTHER, OTHER));
    AS(NOBODY, NOBODY) {
        FAILS(utimensat(AT_FDCWD, "a", times, 0), EPERM);
        WORKS(utimensat(AT_FDCWD, "a", 0, 0));
    }
    AS(OTHER, OTHER)
        WORKS(utimensat(AT_FDCWD, "a", times, 0));
    WORKS(chmod("a", 0644));
    AS(NOBODY, NOBODY)
        FAILS(utimensat(AT_FDCWD, "a", 0, 0), EACCES);
}

CASE("stat", "shows at once what was written")
{
    struct stat before, status;
    int file;

    make(REGULAR, "a", 0644);
    before = look("a");
    let_time_pass();
    WORKS(file = open("a", O_RDWR));
    EQUAL(write(file, "12345", 5), 5);
    EQUAL(look("a").st_size, 5);
    CHECK(is_later(look("a").st_mtim, before.st_mtim));
    CHECK(is_later(look("a").st_ctim, before.st_ctim));
    WORKS(fstat(file, &status));
    EQUAL(status.st_size, 5);
    EQUAL(status.st_ino, look("a").st_ino);
}

CASE("stat", "counts the blocks of a file with a hole, not its size")
{
    int file;

    WORKS(file = open("a", O_CREAT | O_RDWR, 0600));
    EQUAL(pwrite(file, "x", 1, 64 << 20), 1);
    WORKS(fsync(file));
    EQUAL(look("a").st_size, (64 << 20) + 1);
    CHECK(look("a").st_blocks > 0 && look("a").st_blocks < 2048);
}

CASE("stat", "says how full the file system is")
{
    struct statvfs status;

    WORKS(statvfs(".", &status));
    CHECK(status.f_blocks && status.f_bavail && status.f_files && status.f_bsize);
    EQUAL(status.f_namemax, 255);
}

CASE("access", "tells what a user may do")
{
    make(REGULAR, "a", 0640);
    make(REGULAR, "x", 0711);
    WORKS(chown("a", OTHER, NOBODY));
    AS(OTHER, OTHER) {
        WORKS(access("a", R_OK | W_OK));
        FAILS(access("a", X_OK), EACCES);
    }
    AS(NOBODY, NOBODY) {
        WORKS(access("a", R_OK));
        FAILS(access("a", W_OK), EACCES);
        WORKS(access("x", X_OK));
        FAILS(access("x", R_OK), EACCES);
    }
    WORKS(access("a", R_OK | W_OK));
    FAILS(access("a", X_OK), EACCES);
}

CASE("access", "takes the right to search every directory on the way")
{
    WORKS(mkdir("d", 0755));
    WORKS(mkdir("d/e", 0755));
    make(REGULAR, "d/e/a", 0644);
    WORKS(chmod("d", 0700));
    AS(NOBODY, NOBODY) {
        FAILS(access("d/e/a", F_OK), EACCES);
        FAILS(open("d/e/a", O_RDONLY), EACCES);
        FAILS(lstat("d/e/a", &(struct stat){0}), EACCES);
    }
    WORKS(chmod("d", 0711));
    AS(NOBODY, NOBODY)
        WORKS(access("d/e/a", R_OK));
}

CASE("xattr", "of users are set, read, listed and removed on files and directories")
{
    char room[64];

    for (enum kind kind = REGULAR; kind <= FOLDER; kind++) {
        make(kind, "a", 0755);
        EQUAL(listxattr("a", room, sizeof room), 0);
        WORKS(setxattr("a", "user.one", "value", 5, 0));
        WORKS(setxattr("a", "user.two", "", 0, 0));
        EQUAL(getxattr("a", "user.one", room, sizeof room), 5);
        CHECK(!memcmp(room, "value", 5));
        EQUAL(getxattr("a", "user.two", room, sizeof room), 0);
        EQUAL(listxattr("a", room, sizeof room), 18);
        EQUAL(listxattr("a", 0, 0), 18);
        WORKS(removexattr("a", "user.one"));
        FAILS(getxattr("a", "user.one", room, sizeof room), ENODATA);
        FAILS(removexattr("a", "user.one"), ENODATA);
        EQUAL(listxattr("a", room, sizeof room), 9);
        WORKS(kind == FOLDER ? rmdir("a") : unlink("a"));
    }
}

CASE("xattr", "are made or replaced as asked, and need room")
{
    char room[8];

    make(REGULAR, "a", 0644);
    FAILS(setxattr("a", "user.x", "1", 1, XATTR_REPLACE), ENODATA);
    WORKS(setxattr("a", "user.x", "12345", 5, XATTR_CREATE));
    FAILS(setxattr("a", "user.x", "1", 1, XATTR_CREATE), EEXIST);
    FAILS(getxattr("a", "user.x", room, 2), ERANGE);
    EQUAL(getxattr("a", "user.x", 0, 0), 5);
    WORKS(setxattr("a", "user.x", "1", 1, XATTR_REPLACE));
    EQUAL(getxattr("a", "user.x", room, sizeof room), 1);
}

CASE("xattr", "of users may have two thousand bytes of any value")
{
    static char value[2000], found[2000];

    for (size_t at = 0; at < sizeof value; at++)
        value[at] = (char)at;
    make(REGULAR, "a", 0644);
    WORKS(setxattr("a", "user.big", value, sizeof value, 0));
    EQUAL(getxattr("a", "user.big", found, sizeof found), sizeof value);
    CHECK(!memcmp(value, found, sizeof value));
}

CASE("xattr", "of users are for files and directories, and for who may read and write them")
{
    char room[8];

    WORKS(symlink("x", "l"));
    FAILS(lsetxattr("l", "user.x", "1", 1, 0), EPERM);
    make(REGULAR, "a", 0600);
    WORKS(setxattr("a", "user.x", "1", 1, 0));
    AS(NOBODY, NOBODY) {
        FAILS(getxattr("a", "user.x", room, sizeof room), EACCES);
        FAILS(setxattr("a", "user.x", "2", 1, 0), EACCES);
    }
}

CASE("xattr", "move along when a file gets another name, and are one for all names")
{
    char room[8];

    make(REGULAR, "a", 0644);
    WORKS(setxattr("a", "user.x", "1", 1, 0));
    WORKS(link("a", "b"));
    WORKS(rename("a", "c"));
    EQUAL(getxattr("b", "user.x", room, sizeof room), 1);
    WORKS(removexattr("b", "user.x"));
    FAILS(getxattr("c", "user.x", room, sizeof room), ENODATA);
}

CASE("xattr", "with capabilities of a program are set by root, and go when it is written to")
{
    /* struct vfs_cap_data of revision 2: CAP_NET_RAW, effective. Source: linux/capability.h */
    static const unsigned char net_raw[20] = {1, 0, 0, 2, 0, 0x20};
    char room[32];

    make(REGULAR, "a", 0755);
    if (setxattr("a", "security.capability", net_raw, sizeof net_raw, 0) && errno == EPERM)
        skip("no right to give capabilities to a file");
    EQUAL(getxattr("a", "security.capability", room, sizeof room), 20);
    write_byte("a");
    FAILS(getxattr("a", "security.capability", room, sizeof room), ENODATA);
}

CASE("xattr", "of the kind trusted are for root")
{
    char room[8];

    make(REGULAR, "a", 0644);
    WORKS(setxattr("a", "trusted.x", "1", 1, 0));
    EQUAL(getxattr("a", "trusted.x", room, sizeof room), 1);
    AS(NOBODY, NOBODY)
        FAILS(getxattr("a", "trusted.x", room, sizeof room), ENODATA);
}

CASE("acl", "lets one more user in")
{
    /* Version 2; owner rw-, user NOBODY rw-, group ---, mask rw-, others ---. Source: linux/posix_acl_xattr.h */
    static const struct {
        unsigned version;
        struct {
            unsigned short tag, rights;
            unsigned id;
        } entries[5];
    } list = {2, {{1, 6, -1u}, {2, 6, NOBODY}, {4, 0, -1u}, {0x10, 6, -1u}, {0x20, 0, -1u}}};

    make(REGULAR, "a", 0600);
    AS(NOBODY, NOBODY)
        FAILS(open("a", O_RDWR), EACCES);
    WORKS(setxattr("a", "system.posix_acl_access", &list, sizeof list, 0));
    AS(NOBODY, NOBODY)
        WORKS(open("a", O_RDWR));
    AS(OTHER, OTHER)
        FAILS(open("a", O_RDONLY), EACCES);
    EQUAL(look("a").st_mode & 07777, 0660);
}
