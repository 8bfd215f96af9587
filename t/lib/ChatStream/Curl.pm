# SPDX-License-Identifier: Apache-2.0
package ChatStream::Curl;

# The same object as ChatStream::Client, with curl as the one who speaks: for HTTP/2, with prior knowledge or over TLS.
#
#     my $stream = ChatStream::Curl->new(port => $port, tls => 1, path => '/chat?message=hi');

use strict;
use warnings;

use parent 'ChatStream::Client';

use IO::Handle;
use POSIX ();
use Time::HiRes qw(time);

# Options as ChatStream::Client's, without raw, unix and receive_buffer; arguments: more for curl; http ('2', '1.1').
sub new
{
    my ($class, %options) = @_;
    my $self = bless {
        timeout => $options{timeout} || $ENV{CHATSTREAM_TIMEOUT} || 10,
        input   => '',
        body    => '',
        taken   => 0,
        bytes   => 0,
        started => time,
        owner   => $$,
    }, $class;

    my $http = $options{http} // '2';
    my @command = ('curl', '-sSNi', '--noproxy', '*', '--max-time', 120, '--resolve', "localhost:$options{port}:127.0.0.1");
    push @command, $http ne '2' ? "--http$http" : $options{tls} ? '--http2' : '--http2-prior-knowledge';
    push @command, $options{ca} ? ('--cacert', $options{ca}) : '-k' if $options{tls};
    my $headers = $options{headers} || [];
    my @headers = ref $headers eq 'HASH' ? map { ($_, $headers->{$_}) } sort keys %$headers : @$headers;
    my $body = $options{body};
    if (exists $options{json}) {
        $body = JSON::PP->new->utf8->canonical->encode($options{json});
        unshift @headers, 'Content-Type' => 'application/json';
    }
    # curl would otherwise wait a second for "100 Continue" before it sends a larger body.
    push @headers, Expect => '' if defined $body;
    while (my ($name, $value) = splice @headers, 0, 2) {
        push @command, '-H', length $value ? "$name: $value" : "$name:";
    }
    push @command, '-X', $options{method} if $options{method};
    push @command, '--data-binary', $body if defined $body;
    push @command, @{ $options{arguments} || [] };
    push @command, ($options{tls} ? 'https' : 'http') . "://localhost:$options{port}" . ($options{path} // '/');

    pipe my $reader, my $writer or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
        open STDIN,  '<',  '/dev/null';
        open STDOUT, '>&', $writer;
        { no warnings 'exec'; exec @command; }
        POSIX::_exit(127);
    }
    CORE::close $writer;
    $reader->blocking(0);
    @$self{qw(pid socket)} = ($pid, $reader);
    return $self;
}

sub _decoded { 1 }

sub send { die "a curl request cannot be added to\n" }

sub half_close { die "curl cannot half-close\n" }

# curl's exit status, once it has ended; 0: it got the whole answer.
sub exit_status
{
    my ($self) = @_;
    if (defined $self->{pid}) {
        waitpid delete $self->{pid}, 0;
        $self->{exit_status} = $? >> 8 || $? & 127;
    }
    return $self->{exit_status};
}

# For a pipe only curl knows whether the answer was whole.
sub complete
{
    my ($self) = @_;
    return $self->{ended} && $self->exit_status == 0 ? 1 : 0;
}

sub close
{
    my ($self) = @_;
    my $socket = delete $self->{socket} or return;
    $self->{ended} = 1;
    CORE::close $socket;
    if (defined $self->{pid}) {
        kill 'KILL', $self->{pid};
        $self->exit_status;
    }
    return;
}

sub abort { $_[0]->close }

sub DESTROY
{
    my ($self) = @_;
    local ($?, $@, $!);
    $self->close if $self->{owner} == $$;
}

1;
