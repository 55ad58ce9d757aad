/*
 * A thread that writes files and never needs the interpreter: the native part of file_writer.py.
 *
 * What is to be written is handed over with its memory pinned (`submit`), written in that order, and told of by bytes in
 * a pipe, so that an event loop wakes up; then `finished` says what became of it and lets go of the memory. A thread of
 * Python's would have to get hold of the interpreter twice for each, and whoever uses it meanwhile lets go of it late.
 * Uses the stable ABI of Python 3.11 only.
 */

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MOST_PARTS = 1024 }; /* of one system call */

typedef struct {
    int fd;
    off_t position;
    Py_ssize_t count;
    Py_buffer *buffers;
    struct iovec *parts;
} Write;

typedef struct Job {
    struct Job *next;
    unsigned long long number;
    int is_synced, error;
    Py_ssize_t count;
    Write *writes;
} Job;

typedef struct {
    Job *first, *last;
} Jobs;

typedef struct {
    PyObject_HEAD
    pthread_t thread;
    pthread_mutex_t lock; /* of everything below */
    pthread_cond_t changed;
    Jobs waiting, finished;
    int wake_fd, is_running, is_closed;
    unsigned long long submitted;
} FileWriter;

static void append(Jobs *jobs, Job *job)
{
    job->next = NULL;
    if (jobs->last == NULL)
        jobs->first = job;
    else
        jobs->last->next = job;
    jobs->last = job;
}

static Job *taken_first(Jobs *jobs)
{
    Job *job = jobs->first;
    if (job != NULL && (jobs->first = job->next) == NULL)
        jobs->last = NULL;
    return job;
}

/* All parts of a write, however many the kernel takes at once. 0, or what went wrong. */
static int write_parts(Write *write)
{
    struct iovec *part = write->parts, *end = write->parts + write->count;
    while (part < end) {
        if (part->iov_len == 0) {
            part++;
            continue;
        }
        ssize_t written = pwritev(write->fd, part, end - part < MOST_PARTS ? (int)(end - part) : MOST_PARTS, write->position);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return written < 0 ? errno : EIO;
        write->position += written;
        for (size_t left = (size_t)written; left > 0;) {
            size_t taken = left < part->iov_len ? left : part->iov_len;
            part->iov_base = (char *)part->iov_base + taken;
            part->iov_len -= taken;
            left -= taken;
            if (part->iov_len == 0)
                part++;
        }
    }
    return 0;
}

static int outcome(Job *job)
{
    for (Py_ssize_t i = 0; i < job->count; i++) {
        int error = write_parts(&job->writes[i]);
        if (error != 0)
            return error;
        if (job->is_synced && fdatasync(job->writes[i].fd) < 0)
            return errno;
    }
    return 0;
}

static void *work(void *argument)
{
    FileWriter *writer = argument;
    pthread_mutex_lock(&writer->lock);
    for (;;) {
        while (writer->waiting.first == NULL && !writer->is_closed)
            pthread_cond_wait(&writer->changed, &writer->lock);
        Job *job = taken_first(&writer->waiting);
        if (job == NULL)
            break;
        pthread_mutex_unlock(&writer->lock);
        job->error = outcome(job);
        pthread_mutex_lock(&writer->lock);
        int is_first = writer->finished.first == NULL;
        append(&writer->finished, job);
        if (is_first && write(writer->wake_fd, "", 1) < 0)
            continue; /* the pipe is full: whoever reads it will come */
    }
    pthread_mutex_unlock(&writer->lock);
    return NULL;
}

/* Needs the interpreter: what was pinned is let go of. */
static void free_job(Job *job)
{
    for (Py_ssize_t i = 0; i < job->count; i++) {
        for (Py_ssize_t k = 0; k < job->writes[i].count; k++)
            PyBuffer_Release(&job->writes[i].buffers[k]);
        PyMem_Free(job->writes[i].buffers);
        PyMem_Free(job->writes[i].parts);
    }
    PyMem_Free(job->writes);
    PyMem_Free(job);
}

/* Pins `buffers`. 0, or -1 with an exception set; then as many are pinned as `count` says. */
static int pin(Write *write, PyObject *buffers)
{
    Py_ssize_t count = PySequence_Size(buffers);
    if (count < 0)
        return -1;
    write->buffers = PyMem_Calloc((size_t)count + 1, sizeof(Py_buffer));
    write->parts = PyMem_Calloc((size_t)count + 1, sizeof(struct iovec));
    if (write->buffers == NULL || write->parts == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; write->count < count; write->count++) {
        Py_buffer *buffer = &write->buffers[write->count];
        PyObject *item = PySequence_GetItem(buffers, write->count);
        int is_pinned = item != NULL && PyObject_GetBuffer(item, buffer, PyBUF_SIMPLE) == 0;
        Py_XDECREF(item);
        if (!is_pinned)
            return -1;
        write->parts[write->count] = (struct iovec){buffer->buf, (size_t)buffer->len};
    }
    return 0;
}

static int fill(Job *job, PyObject *writes)
{
    Py_ssize_t count = PySequence_Size(writes);
    if (count < 0)
        return -1;
    job->writes = PyMem_Calloc((size_t)count + 1, sizeof(Write));
    if (job->writes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; job->count < count;) {
        Write *write = &job->writes[job->count++];
        PyObject *item = PySequence_GetItem(writes, job->count - 1), *buffers;
        long long position;
        int is_filled = item != NULL && PyTuple_Check(item) && PyArg_ParseTuple(item, "iOL", &write->fd, &buffers, &position) &&
                        pin(write, buffers) == 0;
        Py_XDECREF(item);
        if (!is_filled) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_TypeError, "a write is a tuple (fd, buffers, position)");
            return -1;
        }
        write->position = (off_t)position;
    }
    return 0;
}

/* Starts the thread when there is none. It gets no signals: they are the interpreter's. */
static int ensure_running(FileWriter *writer)
{
    sigset_t all, before;
    if (writer->is_running)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&writer->thread, NULL, work, writer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        writer->is_running = 1;
        return 0;
    }
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static PyObject *writer_submit(PyObject *self, PyObject *arguments)
{
    FileWriter *writer = (FileWriter *)self;
    PyObject *writes;
    int is_synced;
    if (!PyArg_ParseTuple(arguments, "Op", &writes, &is_synced))
        return NULL;
    if (writer->is_closed) {
        PyErr_SetString(PyExc_RuntimeError, "the writer is closed");
        return NULL;
    }
    Job *job = PyMem_Calloc(1, sizeof(Job));
    if (job == NULL)
        return PyErr_NoMemory();
    if (fill(job, writes) < 0 || ensure_running(writer) < 0) {
        free_job(job);
        return NULL;
    }
    job->is_synced = is_synced;
    unsigned long long number = job->number = ++writer->submitted;
    pthread_mutex_lock(&writer->lock);
    append(&writer->waiting, job);
    pthread_mutex_unlock(&writer->lock);
    pthread_cond_signal(&writer->changed); /* not before: the thread may get this processor, and would wait for the lock */
    return PyLong_FromUnsignedLongLong(number);
}

static PyObject *writer_finished(PyObject *self, PyObject *none)
{
    FileWriter *writer = (FileWriter *)self;
    PyObject *outcomes = PyList_New(0);
    (void)none;
    pthread_mutex_lock(&writer->lock);
    Jobs jobs = writer->finished;
    writer->finished = (Jobs){NULL, NULL};
    pthread_mutex_unlock(&writer->lock);
    for (Job *job; (job = taken_first(&jobs)) != NULL; free_job(job)) {
        PyObject *pair = outcomes == NULL ? NULL : Py_BuildValue("(Ki)", job->number, job->error);
        if (outcomes != NULL && (pair == NULL || PyList_Append(outcomes, pair) < 0))
            Py_CLEAR(outcomes);
        Py_XDECREF(pair);
    }
    return outcomes;
}

static void end(FileWriter *writer)
{
    pthread_mutex_lock(&writer->lock);
    writer->is_closed = 1;
    pthread_cond_signal(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    if (writer->is_running) {
        writer->is_running = 0;
        Py_BEGIN_ALLOW_THREADS
        pthread_join(writer->thread, NULL);
        Py_END_ALLOW_THREADS
    }
}

static PyObject *writer_close(PyObject *self, PyObject *none)
{
    (void)none;
    end((FileWriter *)self);
    Py_RETURN_NONE;
}

static PyObject *writer_new(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    int wake_fd;
    (void)named;
    if (!PyArg_ParseTuple(arguments, "i", &wake_fd))
        return NULL;
    FileWriter *writer = (FileWriter *)PyType_GenericAlloc(type, 0);
    if (writer == NULL)
        return NULL;
    writer->wake_fd = wake_fd;
    pthread_mutex_init(&writer->lock, NULL);
    pthread_cond_init(&writer->changed, NULL);
    return (PyObject *)writer;
}

static void writer_dealloc(PyObject *self)
{
    FileWriter *writer = (FileWriter *)self;
    PyTypeObject *type = Py_TYPE(self);
    end(writer);
    for (Job *job; (job = taken_first(&writer->finished)) != NULL;)
        free_job(job);
    pthread_cond_destroy(&writer->changed);
    pthread_mutex_destroy(&writer->lock);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef writer_methods[] = {
    {"submit", writer_submit, METH_VARARGS,
     "submit(writes, sync): (fd, buffers, position) each, one after the other. Returns a number."},
    {"finished", writer_finished, METH_NOARGS, "finished(): (number, errno or 0) of those that were since the last call."},
    {"close", writer_close, METH_NOARGS, "close(): returns when all that was submitted is finished."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, "FileWriter(wake_fd): a byte is written there when something is finished and nothing else was before."},
    {Py_tp_new, writer_new},
    {Py_tp_dealloc, writer_dealloc},
    {Py_tp_methods, writer_methods},
    {0, NULL},
};

static PyType_Spec writer_spec = {
    "bytemq.storage.stores._file_writer.FileWriter", sizeof(FileWriter), 0, Py_TPFLAGS_DEFAULT, writer_slots,
};

static int add_type(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&writer_spec);
    int failed = type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, add_type},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_file_writer", "Files written by a thread without the interpreter.", 0, NULL, module_slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__file_writer(void)
{
    return PyModuleDef_Init(&definition);
}
