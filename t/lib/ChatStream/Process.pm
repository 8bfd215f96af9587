# SPDX-License-Identifier: Apache-2.0
package ChatStream::Process;

# Processes that a test starts, and the promise that none of them outlives it: whatever is started here is stopped by its
# own pid when the object goes, when the test dies, is interrupted, or is killed (the kernel sends TERM then).
#
#     my $process = ChatStream::Process->start(command => ['sleep', 9], output => "$dir/sleep.log");
#     $process->stop;

use strict;
use warnings;

use Errno qw(EINTR);
use Exporter 'import';
use IO::Socket::INET;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(children_of free_port slurp wait_until);

my %running;

# Options: command, output (file for stdout and stderr), env (hash of additions), name (for messages).
sub start
{
    my ($class, %options) = @_;
    my @command = @{ $options{command} };
    unshift @command, 'setpriv', '--pdeathsig', 'TERM', '--' if -x '/usr/bin/setpriv';

    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE CHLD);
        open STDIN, '<', '/dev/null';
        if ($options{output}) {
            open STDOUT, '>>', $options{output} or POSIX::_exit(127);
            open STDERR, '>&', \*STDOUT;
        }
        # Its own group, so that a Ctrl-C in the terminal reaches only the test, which stops things in order.
        setpgrp 0, 0;
        $ENV{$_} = $options{env}{$_} for keys %{ $options{env} || {} };
        { no warnings 'exec'; exec { $command[0] } @command; }
        POSIX::_exit(127);
    }
    my $self = bless { pid => $pid, name => $options{name} || $options{command}[0], owner => $$ }, $class;
    $running{$pid} = $self;
    return $self;
}

sub pid { $_[0]{pid} }

# True while it runs. Its wait status is in ->status afterwards.
sub alive
{
    my ($self) = @_;
    return 0 if defined $self->{status};
    my $got = waitpid $self->{pid}, WNOHANG;
    return 1 if $got == 0;
    $self->{status} = $got == $self->{pid} ? $? : -1;
    delete $running{ $self->{pid} };
    return 0;
}

sub status { $_[0]{status} }

sub signal
{
    my ($self, $signal) = @_;
    return $self->alive && kill $signal, $self->{pid};
}

# Sends TERM and waits; after `timeout` seconds KILL, to it and to its children. True when TERM was enough.
sub stop
{
    my ($self, $timeout, $signal) = @_;
    return 1 if !$self->alive;
    kill $signal || 'TERM', $self->{pid};
    return 1 if wait_until(sub { !$self->alive }, $timeout || 10);
    my @family = ($self->{pid}, children_of($self->{pid}));
    kill 'KILL', @family;
    wait_until(sub { !$self->alive }, 5);
    return 0;
}

sub DESTROY
{
    my ($self) = @_;
    local ($?, $@, $!);
    $self->stop(5) if $self->{owner} == $$;
}

sub stop_all
{
    local ($?, $@, $!);
    $_->stop(5) for grep { $_->{owner} == $$ } values %running;
}

END { stop_all() }
$SIG{$_} = sub { my %number = (HUP => 1, INT => 2, TERM => 15); exit 128 + $number{ $_[0] } } for qw(HUP INT TERM);
$SIG{PIPE} = 'IGNORE';

# ---- small things the others need --------------------------------------------------------------------------------------

# Calls `condition` until it is true; its value, or false after `timeout` seconds.
sub wait_until
{
    my ($condition, $timeout) = @_;
    my $deadline = time + ($timeout // 10);
    my $pause = 0.002;
    while (1) {
        my $value = $condition->();
        return $value if $value;
        return $value if time > $deadline;
        sleep $pause;
        $pause = $pause * 1.5 if $pause < 0.05;
    }
}

# A port nobody listens on now. Another process may take it before it is used, so who binds it must be ready to try again.
sub free_port
{
    my $socket = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0, Proto => 'tcp')
        or die "no free port: $@";
    return $socket->sockport;
}

sub slurp
{
    my ($file) = @_;
    open my $handle, '<:raw', $file or return undef;
    local $/;
    return scalar <$handle>;
}

sub children_of
{
    my ($parent) = @_;
    my @pids;
    for my $stat (glob '/proc/[0-9]*/stat') {
        my $text = slurp($stat) // next;
        # The name in parentheses may hold anything, so count from its end: state, then the parent.
        push @pids, $1 if $text =~ /^(\d+) \(.*\) (\S) (\d+) /s && $3 == $parent && $2 ne 'Z';
    }
    @pids = sort { $a <=> $b } @pids;    # sort in scalar context means nothing
    return @pids;
}

1;
