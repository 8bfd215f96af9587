# SPDX-License-Identifier: Apache-2.0
package Bench::Proc;

# Processes of a run: every one is started here, known by its pid, and ended by that pid, whatever happens.

use strict;
use warnings;
use Exporter 'import';
use IO::Socket::INET;
use JSON::PP ();
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(start stop stop_all run_json open_json family pss free_port port_from ready slurp);

my %running;    # pid => name
my $owner = $$;

sub slurp {
    my ($path) = @_;
    open my $fh, '<', $path or return;
    local $/;
    return scalar <$fh>;
}

# In the child: as many open files as allowed, then the program. core Perl has no setrlimit, sh has.
sub exec_program {
    my ($in, $out, $log, @cmd) = @_;
    open STDIN,  '<', $in if !ref $in;
    open STDIN,  '<&', $in if ref $in;
    open STDOUT, '>>', $log if !$out;
    open STDOUT, '>&', $out if $out;
    open STDERR, '>>', $log;
    { exec 'sh', '-c', 'ulimit -n "$(ulimit -Hn)"; exec "$@"', 'sh', @cmd }
    POSIX::_exit(127);
}

sub start {
    my ($name, $log, @cmd) = @_;
    my $pid = fork // die "fork: $!\n";
    exec_program('/dev/null', undef, $log, @cmd) if !$pid;
    $running{$pid} = $name;
    return $pid;
}

sub alive { my ($pid) = @_; return waitpid($pid, WNOHANG) == 0 }

# SIGTERM, then SIGKILL to it and to the children it had: a server that hangs must not spoil the next measurement.
sub stop {
    my ($pid) = @_;
    my $name = delete $running{$pid} or return;
    my @family = family($pid);
    kill TERM => $pid;
    my $until = time + 15;
    while (time < $until) {
        return 1 if !alive($pid);
        sleep 0.02;
    }
    warn "bench: $name did not end on SIGTERM\n";
    kill KILL => $_ for reverse @family;
    waitpid $pid, 0;
    return 0;
}

sub stop_all {
    my ($except) = @_;
    stop($_) for grep { !defined $except || $_ != $except } sort { $b <=> $a } keys %running;
}

END {
    if ($$ == $owner) {
        local $?;
        stop_all();
    }
}

# A process and its descendants. A zombie's children belong to init, so the tree is complete while the root lives.
sub family {
    my ($root) = @_;
    my %children;
    for my $stat (glob '/proc/[0-9]*/stat') {
        my $text = slurp($stat) // next;
        push @{ $children{$2} }, $1 if $text =~ /^(\d+) \(.*\) \S (\d+)/s;
    }
    my @all = ($root);
    for (my $i = 0; $i < @all; $i++) {
        push @all, sort { $a <=> $b } @{ $children{ $all[$i] } // [] };
    }
    return @all;
}

# Memory in KiB: what the processes would give back together, and how much of it is shared memory.
sub pss {
    my %sum = (pss => 0, shmem => 0);
    for my $pid (@_) {
        my $text = slurp("/proc/$pid/smaps_rollup") // next;
        $sum{pss}   += $1 if $text =~ /^Pss:\s+(\d+)/m;
        $sum{shmem} += $1 if $text =~ /^Pss_Shmem:\s+(\d+)/m;
    }
    return \%sum;
}

# Below the ephemeral range, so that none of our own many connections can take it meanwhile.
sub free_port {
    for (1 .. 200) {
        my $port = 20000 + int rand 12000;
        my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1) or next;
        close $s;
        return $port;
    }
    die "no free port\n";
}

sub port_from {
    my ($file, $pid) = @_;
    my $until = time + 10;
    while (time < $until) {
        my $text = slurp($file) // '';
        return $1 if $text =~ /^(\d+)\s*$/m;
        die "$running{$pid} ended at start\n" if !alive($pid);
        sleep 0.02;
    }
    die "no port in $file\n";
}

# Waits until the condition holds; false when the process is gone or the time is over.
sub ready {
    my ($pid, $seconds, $condition) = @_;
    my $until = time + $seconds;
    while (time < $until) {
        return 1 if $condition->();
        return 0 if !alive($pid);
        sleep 0.1;
    }
    return 0;
}

# A program that prints lines of JSON. The handle's next() gives one decoded line; finish() closes its input and waits.
sub open_json {
    my ($log, $seconds, @cmd) = @_;
    pipe my $in_r,  my $in_w  or die "pipe: $!\n";
    pipe my $out_r, my $out_w or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        close $in_w;
        exec_program($in_r, $out_w, $log, @cmd);
    }
    close $in_r;
    close $out_w;
    $running{$pid} = 'load client';
    return bless { pid => $pid, in => $in_w, out => $out_r, text => '', until => time + $seconds }, 'Bench::Proc::Json';
}

sub run_json {
    my ($log, $seconds, @cmd) = @_;
    my $client = open_json($log, $seconds, @cmd);
    my $result = $client->next;
    $client->finish;
    return $result;
}

package Bench::Proc::Json;

sub next {
    my ($self) = @_;
    for (;;) {
        return JSON::PP::decode_json($1) if $self->{text} =~ s/^(.*)\n//;
        my $bits = '';
        vec($bits, fileno $self->{out}, 1) = 1;
        my $left = $self->{until} - Time::HiRes::time();
        die "the load client did not answer in time\n" if $left <= 0 || !select $bits, undef, undef, $left;
        my $n = sysread $self->{out}, $self->{text}, 65536, length $self->{text};
        die "the load client gave no result\n" if !$n;
    }
}

sub finish {
    my ($self) = @_;
    close $self->{in};
    my $until = Time::HiRes::time() + 20;
    while (Time::HiRes::time() < $until) {
        if (waitpid($self->{pid}, POSIX::WNOHANG) != 0) {
            delete $running{ $self->{pid} };
            return;
        }
        Time::HiRes::sleep(0.01);
    }
    Bench::Proc::stop($self->{pid});
}

1;
