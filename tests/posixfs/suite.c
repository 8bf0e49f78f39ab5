/* Runs the cases below a directory and prints the Test Anything Protocol: `posixfs DIRECTORY [GROUP...]`. */
#include "suite.h"

#include <dirent.h>
#include <ftw.h>
#include <grp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { PASSED, FAILED, SKIPPED = 77 };
#define CASE_SECONDS 60

static testcase *first, **last = &first;
static char *complaint; /* shared with the processes of a case */
#define COMPLAINT_SIZE 4096

void add_case(testcase *added)
{
    *last = added;
    last = &added->next;
}

void fail(const char *file, int line, const char *format, ...)
{
    va_list values;
    const char *base = strrchr(file, '/');
    size_t used;

    va_start(values, format);
    used = (size_t)snprintf(complaint, COMPLAINT_SIZE, "%s:%d: ", base ? base + 1 : file, line);
    vsnprintf(complaint + used, COMPLAINT_SIZE - used, format, values);
    va_end(values);
    _exit(FAILED);
}

void skip(const char *why)
{
    snprintf(complaint, COMPLAINT_SIZE, "%s", why);
    _exit(SKIPPED);
}

static void wait_for(pid_t child)
{
    int status;

    WORKS(waitpid(child, &status, 0));
    if (!WIFEXITED(status))
        fail(__FILE__, __LINE__, "a process died of signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status))
        _exit(WEXITSTATUS(status));
}

int enter_user(uid_t user, gid_t group)
{
    pid_t child = fork();

    WORKS(child);
    if (!child) {
        WORKS(setgroups(0, 0));
        WORKS(setresgid(group, group, group));
        WORKS(setresuid(user, user, user));
        return 1;
    }
    wait_for(child);
    return 0;
}

int leave_user(int entered)
{
    (void)entered;
    _exit(PASSED);
}

static pid_t children[64];
static int child_count;

int enter_child(void)
{
    pid_t child = fork();

    WORKS(child);
    if (!child) {
        child_count = 0;
        return 1;
    }
    children[child_count++] = child;
    return 0;
}

void reap(void)
{
    for (int number = 0; number < child_count; number++)
        wait_for(children[number]);
    child_count = 0;
}

void make(enum kind kind, const char *path, mode_t mode)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int descriptor;

    switch (kind) {
    case REGULAR:
        WORKS(descriptor = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600));
        WORKS(close(descriptor));
        break;
    case FOLDER:
        WORKS(mkdir(path, 0700));
        break;
    case FIFO:
        WORKS(mkfifo(path, 0600));
        break;
    case SOCKET:
        strncpy(address.sun_path, path, sizeof address.sun_path - 1);
        WORKS(descriptor = socket(AF_UNIX, SOCK_STREAM, 0));
        WORKS(bind(descriptor, (struct sockaddr *)&address, sizeof address));
        WORKS(close(descriptor));
        break;
    default:
        WORKS(symlink("nowhere", path));
        return;
    }
    WORKS(chmod(path, mode));
}

void make_file(const char *path, const char *content)
{
    int file;

    WORKS(file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644));
    EQUAL(write(file, content, strlen(content)), strlen(content));
    WORKS(close(file));
}

void read_file(const char *path, char *room, size_t size)
{
    int file;
    ssize_t length;

    WORKS(file = open(path, O_RDONLY));
    WORKS(length = read(file, room, size - 1));
    room[length] = 0;
    WORKS(close(file));
}

struct stat look(const char *path)
{
    struct stat status;

    WORKS(lstat(path, &status));
    return status;
}

void let_time_pass(void)
{
    const struct timespec pause = {0, 20 * 1000 * 1000};

    nanosleep(&pause, 0);
}

int is_later(struct timespec a, struct timespec b)
{
    return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

int count_entries(const char *path)
{
    DIR *directory = opendir(path);
    int count = 0;

    CHECK(directory);
    for (struct dirent *entry; (entry = readdir(directory));)
        count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(directory);
    return count;
}

static int remove_one(const char *path, const struct stat *status, int flag, struct FTW *place)
{
    (void)status;
    (void)flag;
    (void)place;
    return remove(path);
}

static int run(const testcase *one)
{
    pid_t child;
    int status;

    WORKS(mkdir("case", 0777));
    WORKS(chmod("case", 0777));
    complaint[0] = 0;
    child = fork();
    if (!child) {
        setpgid(0, 0);
        umask(022);
        WORKS(chdir("case"));
        alarm(CASE_SECONDS);
        one->run();
        reap();
        _exit(PASSED);
    }
    waitpid(child, &status, 0);
    kill(-child, SIGKILL); /* what a case that failed has left */
    if (!WIFEXITED(status)) {
        snprintf(complaint, COMPLAINT_SIZE, "ended by signal %d (%d: %d s are over)", WTERMSIG(status), SIGALRM, CASE_SECONDS);
        status = FAILED << 8;
    }
    nftw("case", remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return WEXITSTATUS(status);
}

static int is_wanted(const testcase *one, int count, char **groups)
{
    for (int number = 0; number < count; number++)
        if (!strcmp(one->group, groups[number]))
            return 1;
    return !count;
}

int main(int count, char **words)
{
    int number = 0, failed = 0;

    if (count < 2 || chdir(words[1]))
        return perror("usage: posixfs DIRECTORY [GROUP...]"), 2;
    complaint = mmap(0, COMPLAINT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (testcase *one = first; one; one = one->next) {
        int outcome;

        if (!is_wanted(one, count - 2, words + 2))
            continue;
        outcome = run(one);
        failed += outcome != PASSED && outcome != SKIPPED;
        printf("%sok %d - %s: %s", outcome == PASSED || outcome == SKIPPED ? "" : "not ", ++number, one->group, one->name);
        if (outcome == SKIPPED)
            printf(" # SKIP %s\n", complaint);
        else
            printf(outcome == PASSED ? "\n" : "\n  error: %s\n", complaint);
        fflush(stdout);
    }
    printf("1..%d\n", number);
    return failed ? 1 : 0;
}
