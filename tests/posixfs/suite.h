/* A suite of what a file system owes its users: each case runs in a process and an empty directory of its own. */
#ifndef SUITE_H
#define SUITE_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOBODY 65534 /* a user without rights */
#define OTHER 65533 /* another one */

typedef struct testcase {
    const char *group, *name;
    void (*run)(void);
    struct testcase *next;
} testcase;

void add_case(testcase *added);

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define CASE_(number, group, name) \
    static void JOIN(case_, number)(void); \
    static testcase JOIN(entry_, number) = {group, name, JOIN(case_, number), 0}; \
    __attribute__((constructor)) static void JOIN(add_, number)(void) { add_case(&JOIN(entry_, number)); } \
    static void JOIN(case_, number)(void)
/* CASE("open", "makes a file") { ... } */
#define CASE(group, name) CASE_(__COUNTER__, group, name)

/* Ends the case. */
void fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4), noreturn));

/* Says that the case cannot be told here, and ends it. */
void skip(const char *why) __attribute__((noreturn));

#define CHECK(what) \
    do { \
        errno = 0; \
        if (!(what)) \
            fail(__FILE__, __LINE__, "%s (%s)", #what, strerror(errno)); \
    } while (0)
#define EQUAL(a, b) \
    do { \
        long long a_ = (long long)(a), b_ = (long long)(b); \
        if (a_ != b_) \
            fail(__FILE__, __LINE__, "%s is %lld, not %lld (%s)", #a, a_, b_, #b); \
    } while (0)
#define WORKS(call) \
    do { \
        if ((call) < 0) \
            fail(__FILE__, __LINE__, "%s: %s", #call, strerror(errno)); \
    } while (0)
#define FAILS(call, number) \
    do { \
        errno = 0; \
        if ((call) >= 0) \
            fail(__FILE__, __LINE__, "%s works, where %s was due", #call, #number); \
        if (errno != (number)) \
            fail(__FILE__, __LINE__, "%s: %s, not %s", #call, strerror(errno), #number); \
    } while (0)

/* AS(uid, gid) { ... } runs the block in a process of that user's, and waits for it. */
int enter_user(uid_t user, gid_t group);
int leave_user(int entered);
#define AS(user, group) for (int as_ = enter_user(user, group); as_; as_ = leave_user(as_))

/* CHILD { ... } starts a process; REAP() waits for all of them and fails where one of them did. */
int enter_child(void);
#define CHILD for (int child_ = enter_child(); child_; _exit(0))
void reap(void);

enum kind { REGULAR, FOLDER, FIFO, SOCKET, LINK, KINDS };
/* Makes a file of a kind. The mode counts for all but links. */
void make(enum kind kind, const char *path, mode_t mode);
void make_file(const char *path, const char *content);
void read_file(const char *path, char *room, size_t size);
struct stat look(const char *path); /* lstat(2) */
void let_time_pass(void); /* beyond the granularity of the kernel's time stamps */
int is_later(struct timespec a, struct timespec b);
int count_entries(const char *path);

#endif
