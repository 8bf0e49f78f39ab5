/* Says what becomes of the entries of a directory, as inotify(7) tells it: `watch DIRECTORY`. */
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static char room[1 << 16];
    int watcher = inotify_init();

    if (argc != 2 || inotify_add_watch(watcher, argv[1], IN_CREATE | IN_MOVED_TO | IN_DELETE) < 0)
        return 1;
    setlinebuf(stdout);
    for (puts("ready");;) {
        ssize_t size = read(watcher, room, sizeof room);
        for (char *at = room; at < room + size;) {
            struct inotify_event *event = (struct inotify_event *)at;
            const char *what = event->mask & IN_MOVED_TO ? "moved" : event->mask & IN_CREATE ? "made" : "gone";
            printf("%s %s\n", what, event->name);
            at += sizeof *event + event->len;
        }
    }
}
