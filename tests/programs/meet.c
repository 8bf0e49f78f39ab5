/* `meet first` makes in /volume what `meet second` finds there, in another container. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int first = !strcmp(argv[1], "first"), plug = socket(AF_UNIX, SOCK_STREAM, 0);
    int file, fifo;
    char word[8] = "";
    char *at;

    chdir("/volume");
    file = first ? open("file", O_CREAT | O_RDWR, 0644) : open("file", O_RDWR);
    if (file < 0)
        file = open("file", O_RDONLY);
    if (first)
        ftruncate(file, 4096);
    at = mmap(0, 4096, first ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file, 0);
    if (first) {
        bind(plug, (struct sockaddr *)&address, sizeof address);
        listen(plug, 1);
        flock(file, LOCK_EX);
        fcntl(file, F_SETLK, &whole);
        mkfifo("fifo", 0600);
        strcpy(at, "mapped");
        fifo = open("fifo", O_RDWR);
        write(fifo, "piped", 5);
        puts("ready");
        fflush(stdout);
        pause();
    }
    printf("connect: %s\n", connect(plug, (struct sockaddr *)&address, sizeof address) ? strerror(errno) : "done");
    printf("flock: %s\n", flock(file, LOCK_EX | LOCK_NB) ? strerror(errno) : "done");
    printf("lock: %s\n", fcntl(file, F_SETLK, &whole) ? strerror(errno) : "done");
    printf("map: %s\n", at);
    fifo = open("fifo", O_RDWR | O_NONBLOCK);
    read(fifo, word, 5);
    printf("fifo: %s\n", word);
    return 0;
}
