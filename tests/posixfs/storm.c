/* Many at once: renames that replace, files that only one can make, appends, directories that change while they are read. */
#include "suite.h"

#include <dirent.h>

enum { WORKERS = 4, ROUNDS = 200 };

CASE("storm", "a file that is replaced by rename is there at all times, old or new, never half")
{
    static char text[2][4096];

    memset(text[0], 'a', sizeof text[0]);
    memset(text[1], 'b', sizeof text[1]);
    for (int version = 0; version < 2; version++) {
        int file;

        WORKS(file = open("target", O_CREAT | O_WRONLY | O_TRUNC, 0644));
        EQUAL(write(file, text[version], sizeof text[version]), sizeof text[version]);
        WORKS(close(file));
    }
    for (int worker = 0; worker < 2; worker++)
        CHILD {
            char name[16];

            snprintf(name, sizeof name, "new%d", worker);
            for (int round = 0; round < ROUNDS; round++) {
                int file;

                WORKS(file = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644));
                EQUAL(write(file, text[worker], sizeof text[worker]), sizeof text[worker]);
                WORKS(close(file));
                WORKS(rename(name, "target"));
            }
        }
    for (int reader = 0; reader < 2; reader++)
        CHILD
            for (int round = 0; round < ROUNDS; round++) {
                char room[sizeof text[0] + 1];
                int file;

                WORKS(file = open("target", O_RDONLY));
                EQUAL(read(file, room, sizeof room), sizeof text[0]);
                CHECK(!memcmp(room, text[0], sizeof text[0]) || !memcmp(room, text[1], sizeof text[1]));
                WORKS(close(file));
            }
    reap();
    EQUAL(count_entries("."), 1);
}

CASE("storm", "files that are renamed in circles by several are neither lost nor doubled")
{
    enum { FILES = 8 };
    char from[16], to[16];

    for (int number = 0; number < FILES; number++) {
        snprintf(from, sizeof from, "f%d", number);
        make(REGULAR, from, 0644);
    }
    WORKS(mkdir("d", 0755));
    for (int worker = 0; worker < WORKERS; worker++)
        CHILD
            for (int round = 0; round < ROUNDS; round++) {
                int number = (worker + round) % FILES;

                snprintf(from, sizeof from, round % 2 ? "d/f%d" : "f%d", number);
                snprintf(to, sizeof to, round % 2 ? "f%d" : "d/f%d", number);
                if (rename(from, to) < 0)
                    EQUAL(errno, ENOENT);
            }
    reap();
    EQUAL(count_entries(".") - 1 + count_entries("d"), FILES);
}

CASE("storm", "of several who make a file or a directory one succeeds")
{
    int *won = mmap(0, sizeof *won * 2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    for (int worker = 0; worker < WORKERS; worker++)
        CHILD
            for (int round = 0; round < ROUNDS; round++) {
                char name[16];

                snprintf(name, sizeof name, "f%d", round);
                if (open(name, O_CREAT | O_EXCL | O_WRONLY, 0644) >= 0)
                    __atomic_add_fetch(&won[0], 1, __ATOMIC_SEQ_CST);
                else
                    EQUAL(errno, EEXIST);
                snprintf(name, sizeof name, "d%d", round);
                if (!mkdir(name, 0755))
                    __atomic_add_fetch(&won[1], 1, __ATOMIC_SEQ_CST);
                else
                    EQUAL(errno, EEXIST);
            }
    reap();
    EQUAL(won[0], ROUNDS);
    EQUAL(won[1], ROUNDS);
}

CASE("storm", "nothing is lost of what several append to one file")
{
    static char line[64];
    int file, counts[WORKERS] = {0};

    for (int worker = 0; worker < WORKERS; worker++)
        CHILD {
            WORKS(file = open("log", O_CREAT | O_WRONLY | O_APPEND, 0644));
            memset(line, '0' + worker, sizeof line);
            for (int round = 0; round < ROUNDS; round++)
                EQUAL(write(file, line, sizeof line), sizeof line);
        }
    reap();
    EQUAL(look("log").st_size, WORKERS * ROUNDS * sizeof line);
    WORKS(file = open("log", O_RDONLY));
    while (read(file, line, sizeof line) == sizeof line) {
        for (size_t at = 1; at < sizeof line; at++)
            EQUAL(line[at], line[0]);
        counts[line[0] - '0']++;
    }
    for (int worker = 0; worker < WORKERS; worker++)
        EQUAL(counts[worker], ROUNDS);
}

CASE("storm", "a lock makes counting by several right")
{
    int file;
    char room[16];

    make_file("count", "0");
    for (int worker = 0; worker < WORKERS; worker++)
        CHILD {
            WORKS(file = open("count", O_RDWR));
            for (int round = 0; round < 50; round++) {
                struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
                ssize_t length;

                WORKS(fcntl(file, F_SETLKW, &whole));
                WORKS(length = pread(file, room, sizeof room - 1, 0));
                room[length] = 0;
                length = snprintf(room, sizeof room, "%d", atoi(room) + 1);
                EQUAL(pwrite(file, room, (size_t)length, 0), length);
                whole.l_type = F_UNLCK;
                WORKS(fcntl(file, F_SETLK, &whole));
            }
        }
    reap();
    read_file("count", room, sizeof room);
    EQUAL(atoi(room), WORKERS * 50);
}

CASE("storm", "a directory that others change lists what stays in it, each once")
{
    enum { STAYING = 100 };
    char name[16];

    for (int number = 0; number < STAYING; number++) {
        snprintf(name, sizeof name, "s%d", number);
        make(REGULAR, name, 0644);
    }
    for (int worker = 0; worker < 2; worker++)
        CHILD
            for (int round = 0; round < ROUNDS; round++) {
                snprintf(name, sizeof name, "t%d-%d", worker, round % 10);
                make(REGULAR, name, 0644);
                WORKS(unlink(name));
            }
    for (int round = 0; round < 20; round++) {
        char seen[STAYING] = "";
        DIR *directory = opendir(".");

        CHECK(directory);
        for (struct dirent *entry; (entry = readdir(directory));)
            if (entry->d_name[0] == 's')
                EQUAL(seen[atoi(entry->d_name + 1)]++, 0);
        for (int number = 0; number < STAYING; number++)
            EQUAL(seen[number], 1);
        closedir(directory);
    }
    reap();
}
