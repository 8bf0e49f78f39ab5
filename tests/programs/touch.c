/* Makes a file of two huge pages of 2 MiB: `touch FILE`. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const size_t size = 4 << 20;
    int file = open(argv[1], O_CREAT | O_RDWR, 0600);
    char *at;

    if (ftruncate(file, size) || (at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)) == MAP_FAILED)
        return perror("mmap"), 1;
    memset(at, 1, size);
    puts("touched");
    return 0;
}
